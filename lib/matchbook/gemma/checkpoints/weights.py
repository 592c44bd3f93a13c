"""The weights of a `Transformer` as host arrays: filled block by block, then handed to JAX.

Unusual: arrays are allocated on the alignment that XLA wants, so that on a CPU `device_put` takes
them over instead of copying: loading costs the model and one block, never the model twice.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from matchbook.gemma.attention import Attention
from matchbook.gemma.checkpoints.errors import CheckpointError
from matchbook.gemma.checkpoints.safetensors_files import DTYPES, row_blocks
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.mapping import TensorPlace
from matchbook.gemma.model import Transformer

ALIGNMENT = 64  # bytes; XLA copies what is aligned to less
FLOATS = tuple(DTYPES.values())


def choose_dtype(wanted: DTypeLike | None, stored: set[np.dtype]) -> np.dtype:
    """The type of a model's weights: as wanted, else as stored, else, where a file mixes, float32.

    Raises:
      ValueError: none of float32, bfloat16 and float16.
    """
    if wanted is None:
        return next(iter(stored)) if len(stored) == 1 else np.dtype(np.float32)
    try:
        dtype = jnp.dtype(wanted)
    except TypeError:  # no type at all
        dtype = None
    if dtype not in FLOATS:
        raise ValueError(f"dtype: expected float32, bfloat16 or float16, got {wanted}")
    return dtype


class HostWeights:
    """Empty weights of a model of this shape, to be filled and then turned into the model."""

    def __init__(self, config: Gemma2Config, dtype: np.dtype):
        self._abstract = abstract(config, dtype)
        shapes = flatten_dict(nnx.to_pure_dict(nnx.state(self._abstract)))
        self._arrays = {path: _aligned(leaf.shape, dtype) for path, leaf in shapes.items()}

    def fill(self, place: TensorPlace, rows: slice, block: np.ndarray, file: Path) -> None:
        """Rows of a stored tensor (of its part) into their place, cast.

        Raises:
          CheckpointError: a value that is not finite, or not in the dtype of the weights.
        """
        array = self._arrays[place.path]
        theirs = place.to_theirs(array if place.pair is None else array[place.pair])
        with np.errstate(over="ignore"):
            cast = block.astype(theirs.dtype, copy=False)
        if not np.isfinite(cast).all():
            raise not_finite(file, place.name, block, theirs.dtype)
        theirs[rows] = cast

    def to_model(self) -> Transformer:
        """The model; the host arrays are its own on a CPU, and dropped one by one elsewhere."""
        leaves = {path: jax.device_put(self._arrays.pop(path)) for path in list(self._arrays)}
        return with_leaves(self._abstract, leaves)


def not_finite(file: Path, name: str, block: np.ndarray, dtype: np.dtype) -> CheckpointError:
    """What to raise for a block with a value that is not finite once it has this dtype."""
    wide = block.astype(np.float32)
    if np.isfinite(wide).all():
        largest = f"{np.abs(wide).max():.4g}"
        return CheckpointError(file, name, expected=f"values within {dtype}", found=largest)
    worst = "not-a-number" if np.isnan(wide).any() else "infinity"
    return CheckpointError(file, name, expected="finite values", found=worst)


def abstract(config: Gemma2Config, dtype: DTypeLike) -> Transformer:
    """A model of this shape and dtype, without weights."""
    return nnx.eval_shape(
        lambda: Transformer(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=dtype)
    )


def with_leaves(model: Transformer, leaves: dict[tuple[str, ...], jax.Array]) -> Transformer:
    """A model of the same structure and settings with these weights."""
    graph, state = nnx.split(model)
    nnx.replace_by_pure_dict(state, unflatten_dict(leaves))
    return nnx.merge(graph, state)


def leaves_of(model: Transformer) -> dict[tuple[str, ...], jax.Array]:
    """The weights of a model by path.

    Raises:
      ValueError: weights that are none of float32, bfloat16 and float16, or that are spread over
        several processes.
    """
    leaves = flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    for path, leaf in leaves.items():
        if leaf.dtype not in FLOATS:
            raise ValueError(
                f"{'/'.join(path)}: expected float32, bfloat16 or float16, got {leaf.dtype}"
            )
        if not leaf.is_fully_addressable:
            raise ValueError(
                f"{'/'.join(path)}: expected weights that this process holds, got ones spread "
                "over several: gather them first (jax.experimental.multihost_utils)"
            )
    return leaves


def host_slice(leaf: jax.Array, place: TensorPlace) -> np.ndarray:
    """One layer of a leaf on the host: a view where it lies there, else a copy of this layer."""
    if len(leaf.devices()) == 1 and next(iter(leaf.devices())).platform == "cpu":
        array = np.asarray(leaf)
        return array if place.pair is None else array[place.pair]
    return np.asarray(leaf if place.pair is None else leaf[place.pair])


def checked_blocks(
    array: Callable[[], np.ndarray], name: str, target: Path
) -> Iterator[np.ndarray]:
    """An array, in a checkpoint's layout, in blocks of rows; it is fetched when they are.

    Raises:
      CheckpointError: a value that is not finite: nothing is saved that could not be loaded.
    """
    theirs = array()
    for rows in row_blocks(theirs.shape, theirs.dtype):
        block = np.ascontiguousarray(theirs[rows])
        if not np.isfinite(block).all():
            raise not_finite(target, name, block, block.dtype)
        yield block


def with_rows(model: Transformer, rows: int) -> Transformer:
    """The same model with another number of rows in its table; the other weights are shared.

    Google's tables have 256,128 rows, Hugging Face's 256,000, one for each token (section 2 of the
    reference sheet, `layouts.PADDED_ROWS` and `layouts.HUGGING_FACE_ROWS`). The rows in between
    stand for no token. Rows that are dropped take their logits with them and leave the others as
    they were, so probabilities change by what the dropped ones had. Rows that are added are zero,
    and so are their logits: keep them out of sampling and of losses. One new table is allocated.

    Raises:
      ValueError: fewer than one row.
    """
    if rows < 1:
        raise ValueError(f"rows: expected at least 1, got {rows}")
    leaves = leaves_of(model)
    table = leaves["embedder", "table"]
    kept = table[:rows]
    leaves["embedder", "table"] = jnp.pad(kept, ((0, rows - kept.shape[0]), (0, 0)))
    other = with_leaves(model, leaves)
    for _, module in nnx.iter_modules(other):
        if isinstance(module, Transformer | Attention):
            module.config = dataclasses.replace(model.config, vocab_size=rows)
    return other


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
