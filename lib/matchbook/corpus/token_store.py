"""One row of numbers for each token, on disk: appended to, killed at any moment, mapped to memory.

A store is a folder of three files. `rows` holds fixed-size rows and nothing else; `chunks` has a
line for each append that is on the disk for good, its number of rows and their checksum; `header`
says what the rows are of. Unusual: bytes without a line do not exist, so a kill in the middle of an
append loses that append alone, and whatever is damaged, of something else or too short is refused.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np


class TokenStoreError(Exception):
    """A store that may not be used; the message says why, and what to do."""


class TokenStoreWriter:
    """Appends to the store in `folder`, a new one or one with the same key.

        with TokenStoreWriter(folder, key, dtype) as store:
            while store.rows < total:
                store.append(make(store.rows))

    Args:
      folder: of the store; made if it is missing.
      key: what the rows are of, as JSON has it: digests of all that they follow from.
      dtype: structured type of a row.

    Raises:
      TokenStoreError: there is something else, something damaged, or another process writes.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], dtype: np.dtype):
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise TokenStoreError(f"{folder}: another process appends to it: wait for it") from None
        try:
            if not (folder / "header").exists():
                _write_header(folder, key, dtype)
            self.rows = _check(folder, key, dtype)
            self._data, self._chunks = (_reopen(folder / name) for name in ("rows", "chunks"))
            # What a killed append left behind.
            self._data.truncate(self.rows * dtype.itemsize)
            self._chunks.truncate(_whole_lines(folder))
        except BaseException:
            self._lock.release()
            raise
        self._dtype = dtype

    def append(self, rows: np.ndarray) -> None:
        """Add rows [n] after all others; when it returns they are on the disk.

        Raises:
          TokenStoreError: rows of another type.
        """
        if rows.dtype != self._dtype or rows.ndim != 1:
            raise TokenStoreError(
                f"rows: expected [n] of {self._dtype}, got {list(rows.shape)} of {rows.dtype}"
            )
        if not len(rows):
            return
        data = np.ascontiguousarray(rows).tobytes()
        # The line must not reach the disk before the rows it vouches for.
        for file, content in (
            (self._data, data),
            (self._chunks, f"{len(rows)} {zlib.crc32(data):08x}\n".encode()),
        ):
            file.seek(0, os.SEEK_END)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.rows += len(rows)

    def close(self) -> None:
        """Let go of the store, so that another process can append to it."""
        self._data.close()
        self._chunks.close()
        self._lock.release()

    def __enter__(self) -> "TokenStoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_token_store(
    folder: Path, key: Mapping[str, Any], dtype: np.dtype, rows: int
) -> np.ndarray:
    """The first `rows` rows, mapped to memory: what is not looked at is not read again.

    All checksums are verified first, which reads the whole file once.

    Raises:
      TokenStoreError: no store, a damaged one, one of something else, or fewer rows.
    """
    found = _check(folder, key, dtype)
    if found < rows:
        raise TokenStoreError(
            f"{folder}: expected {rows:,} rows, found {found:,}: it is unfinished, append the rest"
        )
    if not rows:
        return np.empty(0, dtype)
    return np.memmap(folder / "rows", dtype, mode="r", shape=(rows,))


def _check(folder: Path, key: Mapping[str, Any], dtype: np.dtype) -> int:
    """The number of rows that are there for good; raises if the store is not the one expected."""
    try:
        header = json.loads((folder / "header").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TokenStoreError(f"{folder}: expected a token store, found none: make it") from None
    except ValueError:
        raise TokenStoreError(_damaged(folder, "its header cannot be read")) from None
    expected = _header(key, dtype)
    if header != expected:
        found = header if isinstance(header, dict) else {}
        names = sorted({*expected, *found})
        differ = {n: (expected.get(n), found.get(n)) for n in names}
        reasons = [f"{n}: expected {e}, found {f}" for n, (e, f) in differ.items() if e != f]
        raise TokenStoreError(
            f"{folder}: it holds something else: {'; '.join(reasons)}: use another folder"
        )
    return _checked_rows(folder, dtype.itemsize)


def _checked_rows(folder: Path, row_bytes: int) -> int:
    path, total = folder / "rows", 0
    size = path.stat().st_size if path.exists() else 0
    data = np.memmap(path, np.uint8, mode="r") if size else np.empty(0, np.uint8)
    whole = _chunk_lines(folder)[: _whole_lines(folder)].decode(errors="replace")
    for number, line in enumerate(whole.split("\n")[:-1], start=1):
        try:
            rows, checksum = int(line.split(" ")[0]), int(line.split(" ")[1], 16)
        except (ValueError, IndexError):
            raise TokenStoreError(_damaged(folder, f"chunk {number} has no checksum")) from None
        start, total = total, total + rows
        chunk = data[start * row_bytes : total * row_bytes]
        if rows < 1 or len(chunk) < rows * row_bytes:
            raise TokenStoreError(
                _damaged(folder, f"expected {total * row_bytes:,} bytes of rows, found {size:,}")
            )
        if zlib.crc32(chunk) != checksum:
            raise TokenStoreError(
                _damaged(folder, f"rows {start:,} to {total:,} differ from what was written")
            )
    return total


def _header(key: Mapping[str, Any], dtype: np.dtype) -> dict[str, Any]:
    header = {"format": 1, "row": dtype.descr, **{f"key {name}": key[name] for name in key}}
    return json.loads(json.dumps(header))  # as it will be read: tuples are lists


def _write_header(folder: Path, key: Mapping[str, Any], dtype: np.dtype) -> None:
    beside = folder / "header.unfinished"
    with beside.open("w", encoding="utf-8") as file:
        json.dump(_header(key, dtype), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, folder / "header")


def _reopen(path: Path) -> Any:
    path.touch()
    return path.open("r+b")


def _chunk_lines(folder: Path) -> bytes:
    path = folder / "chunks"
    return path.read_bytes() if path.exists() else b""


def _whole_lines(folder: Path) -> int:
    """Bytes up to the last line that is whole."""
    return _chunk_lines(folder).rfind(b"\n") + 1


def _damaged(folder: Path, reason: str) -> str:
    return f"{folder}: it is damaged: {reason}: delete it and make it again"
