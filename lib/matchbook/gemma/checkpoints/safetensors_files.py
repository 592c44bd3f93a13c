"""The safetensors format: a length, a JSON header, and the tensors' bytes, end to end.

Unusual: tensors are read and written in blocks of a few megabytes with plain reads. Nothing is
mapped, so a file that shrinks while it is read is a short read (a mapped one would kill the
process) and no page of it counts as memory of ours. Every number of the header is checked before
it is used; the format itself holds no code.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from matchbook.gemma.checkpoints.errors import CheckpointError, shape_text
from matchbook.gemma.checkpoints.json_files import parse_object

DTYPES = {
    "BF16": np.dtype(jnp.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LARGEST_HEADER = 100_000_000  # bytes, the format's own limit
BLOCK = 8 * 2**20  # bytes held at once, per tensor read or written
OTHER_KINDS = {  # first bytes -> what such a file is
    b"PK\x03\x04": "a pickle in a zip, as torch.save writes: loading it could run code",
    b"\x80\x02": "a pickle: loading it could run code",
    b"\x80\x03": "a pickle: loading it could run code",
    b"\x80\x04": "a pickle: loading it could run code",
    b"\x80\x05": "a pickle: loading it could run code",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer: the file itself was not downloaded",
    b"\x89HDF": "an HDF5 file",
    b"<!": "a page of markup: a failed download?",
}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor's entry in the header; `start` counts bytes from the beginning of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsFile:
    """A file whose header was read and found sound.

    Raises:
      CheckpointError: a file of another kind, cut short, with a header that lies about lengths or
        offsets, with a tensor that is not BF16, F16 or F32, or with bytes that belong to none.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise CheckpointError(path, expected="a safetensors file", found="no such file")
        size = path.stat().st_size
        with path.open("rb") as file:
            self.tensors = _read_header(path, file, size)

    def blocks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """A tensor in blocks of rows: (which rows, their values), first to last.

        Raises:
          CheckpointError: the file ends before the tensor does.
        """
        tensor = self.tensors[name]
        with self.path.open("rb", buffering=0) as file:
            file.seek(tensor.start)
            for rows in row_blocks(tensor.shape, tensor.dtype):
                block = np.empty((rows.stop - rows.start, *tensor.shape[1:]), tensor.dtype)
                unread = memoryview(block.reshape(-1).view(np.uint8))
                while unread:
                    count = file.readinto(unread)
                    if not count:
                        raise CheckpointError(
                            self.path,
                            name,
                            expected=f"{tensor.nbytes:,} bytes",
                            found="the end of the file: it changed while being read",
                        )
                    unread = unread[count:]
                yield rows, block


def row_blocks(shape: tuple[int, ...], dtype: np.dtype) -> Iterator[slice]:
    """Slices of the leading dimension that hold about `BLOCK` bytes each."""
    row_bytes = max(1, math.prod(shape[1:]) * dtype.itemsize)
    step = max(1, BLOCK // row_bytes)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


@dataclasses.dataclass(frozen=True)
class NewTensor:
    """A tensor to write: `blocks` are its rows, in order, in any memory layout."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    blocks: Iterable[np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write(path: Path, tensors: list[NewTensor]) -> None:
    """A new file of these tensors, in this order: the same bytes for the same tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers insists on it
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("xb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors:
            for block in tensor.blocks:
                file.write(memoryview(np.ascontiguousarray(block).reshape(-1).view(np.uint8)))
        if file.tell() != 8 + len(encoded) + end:
            raise AssertionError(f"{path}: the blocks do not add up to the header")


def _read_header(path: Path, file: Any, size: int) -> dict[str, StoredTensor]:
    start = file.read(32)
    length = int.from_bytes(start[:8], "little")
    longest = min(size - 8, LARGEST_HEADER)
    if not 2 <= length <= longest or start[8:9] != b"{":
        # What is another file's first bytes is as a length astronomical.
        kinds = OTHER_KINDS.items() if length > LARGEST_HEADER else ()
        for magic, kind in kinds:
            if start.startswith(magic):
                hint = "not opened; convert it to safetensors with its own tools"
                raise CheckpointError(path, expected="a safetensors file", found=kind, hint=hint)
        raise CheckpointError(
            path,
            "header",
            expected=f"its length, 2 to {max(2, longest):,} bytes, then a JSON object",
            found=f"{length:,}, then {start[8:16]!r}" if size >= 8 else f"a file of {size} bytes",
            hint="cut short, or not a safetensors file",
        )
    file.seek(8)
    header = parse_object(path, file.read(length))
    header.pop("__metadata__", None)
    data = 8 + length
    tensors = {name: _entry(path, name, entry, data) for name, entry in header.items()}
    end = data
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != end:
            raise CheckpointError(
                path,
                name,
                expected=f"offset {end - data:,}, where the tensor before it ends",
                found=f"{tensor.start - data:,}",
                hint="tensors overlap or leave a hole",
            )
        end += tensor.nbytes
        if end > size:
            raise CheckpointError(
                path,
                name,
                expected=f"a file of at least {end:,} bytes",
                found=f"{size:,}",
                hint="cut short",
            )
    if end != size:
        raise CheckpointError(
            path,
            expected=f"a file of {end:,} bytes, as its header adds up to",
            found=f"{size:,}",
        )
    return tensors


def _entry(path: Path, name: str, entry: Any, data: int) -> StoredTensor:
    """One entry of the header, in which nothing may be believed."""

    def whole(value: Any) -> bool:
        return type(value) is int and 0 <= value < 2**62

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            path, name, expected="dtype, shape and data_offsets", found=_short(entry)
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            path, name, expected=f"dtype {', '.join(DTYPES)}", found=f"dtype {_short(dtype)}"
        )
    if not isinstance(shape, list) or not all(map(whole, shape)) or not 1 <= len(shape) <= 2:
        raise CheckpointError(
            path, name, expected="a shape of one or two dimensions", found=_short(shape)
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(whole, offsets)):
        raise CheckpointError(path, name, expected="two offsets", found=_short(offsets))
    tensor = StoredTensor(DTYPES[dtype], tuple(shape), data + offsets[0])
    if offsets[1] - offsets[0] != tensor.nbytes:
        raise CheckpointError(
            path,
            name,
            expected=f"{tensor.nbytes:,} bytes for {shape_text(shape)} of {dtype}",
            found=f"offsets {offsets}",
        )
    return tensor


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
