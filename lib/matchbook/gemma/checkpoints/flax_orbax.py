"""Google's Flax layout: a semi-flat tree of arrays in an Orbax folder (reference sheet, 8.2).

Unusual: the tree holds no config. Sizes are read off the shapes, and the constants that shapes do
not tell come from a config.json beside it (we write one), from Table 1, or from the caller. Leaves
are restored, and when saving computed, one after the other, so that memory holds one at a time.
"""

import asyncio
import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from jax.typing import DTypeLike

from matchbook.gemma.checkpoints.checking import check_layers, check_tensors, count_layers
from matchbook.gemma.checkpoints.errors import CheckpointError, shape_text
from matchbook.gemma.checkpoints.memory import freed_memory_returned
from matchbook.gemma.checkpoints.safetensors_files import row_blocks
from matchbook.gemma.checkpoints.weights import (
    FLOATS,
    HostWeights,
    checked_blocks,
    choose_dtype,
    host_slice,
    leaves_of,
)
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.mapping import Shape, TensorPlace, flax_tensors
from matchbook.gemma.model import Transformer

TABLE = "transformer/embedder/input_embedding"
LAYER = "transformer/layer_0"
CHUNKS = 128  # in which a model is encoded and written: a few of them are held at once
KNOWN = (Gemma2Config.gemma2_2b(), Gemma2Config.gemma2_9b(), Gemma2Config.gemma2_27b())


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A leaf of the tree on disk: where it is, and what Orbax's metadata say of it."""

    keys: tuple[str, ...]
    shape: Shape
    dtype: np.dtype


def load(
    folder: Path, dtype: DTypeLike | None, config: Gemma2Config | None, source: str
) -> Transformer:
    """The model in an Orbax folder; raises CheckpointError, see `load_checkpoint`."""
    leaves = _metadata(folder)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    if config is None:
        config, source = infer_config(shapes, folder), "its shapes and Table 1"
    check_layers(config, leaves, folder, source)
    gate = has_transposed_gate(config, shapes.get(f"{LAYER}/mlp/gating_einsum/w"), folder)
    places: dict[str, list[TensorPlace]] = {}
    for place in flax_tensors(config, transposed_gate=gate):
        places.setdefault(place.name, []).append(place)
    check_tensors(
        (p for group in places.values() for p in group), shapes, folder, _here(folder), source
    )
    for name, leaf in leaves.items():
        if leaf.dtype not in FLOATS:
            raise CheckpointError(
                folder, name, expected="bfloat16, float16 or float32", found=str(leaf.dtype)
            )
    host = HostWeights(config, choose_dtype(dtype, {leaf.dtype for leaf in leaves.values()}))
    # The largest first: it is held twice, once as restored, and the others are not there yet.
    with freed_memory_returned():
        for name in sorted(places, key=lambda name: -math.prod(shapes[name])):
            _fill(host, places[name], _restore(folder, name, leaves[name]), folder)
    return host.to_model()


def save(model: Transformer, folder: Path) -> None:
    """Write a model as a new Orbax folder, rows as they are; see `save_checkpoint`."""
    config = model.config
    gate = has_transposed_gate(config, None, folder)
    ours = leaves_of(model)
    places: dict[str, list[TensorPlace]] = {}
    for place in flax_tensors(config, transposed_gate=gate):
        places.setdefault(place.name, []).append(place)
    tree: dict[str, dict[str, _LazyArray]] = {}
    for name, group in places.items():
        leaf = ours[group[0].path]

        def compute(name=name, group=group) -> np.ndarray:
            parts = [place.to_theirs(host_slice(ours[place.path], place)) for place in group]
            for part in parts:
                for _ in checked_blocks(lambda part=part: part, name, folder):
                    pass
            return parts[0] if group[0].part is None else np.stack(parts)

        key, last = name.rsplit("/", 1)
        tree.setdefault(key, {})[last] = _LazyArray(group[0].shape, np.dtype(leaf.dtype), compute)
    registry = ocp.type_handlers.create_type_handler_registry(
        (_LazyArray, _OneByOne(deepcopy_host_arrays=False)),
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # unused; without it Orbax warns
    )
    total = sum(leaf.nbytes for leaf in ours.values())
    chunk = ocp.SaveArgs(chunk_byte_size=max(2**20, min(total // CHUNKS, 2**26)))
    chunked = jax.tree.map(lambda _: chunk, tree)
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with freed_memory_returned(), ocp.Checkpointer(handler) as orbax:
        orbax.save(folder.resolve(), args=ocp.args.PyTreeSave(tree, save_args=chunked))


def _fill(host: HostWeights, places: list[TensorPlace], array: np.ndarray, folder: Path) -> None:
    """One leaf into its places."""
    for place in places:
        part = array if place.part is None else array[place.part]
        for rows in row_blocks(part.shape, part.dtype):
            host.fill(place, rows, part[rows], folder)


def infer_config(shapes: Mapping[str, Shape], folder: Path) -> Gemma2Config:
    """The real size with these shapes, and with as many rows as its table has.

    Raises:
      CheckpointError: the leaves that tell sizes are missing, or the sizes are none of Table 1.
    """

    def dimensions(name: str, count: int) -> Shape:
        shape = shapes.get(name)
        if shape is None or len(shape) != count:
            found = "no such leaf" if shape is None else shape_text(shape)
            raise CheckpointError(folder, name, expected=f"{count} dimensions", found=found)
        return shape

    rows, embed = dimensions(TABLE, 2)
    heads, _, head_dim = dimensions(f"{LAYER}/attn/q_einsum/w", 3)
    _, kv_heads, _, _ = dimensions(f"{LAYER}/attn/kv_einsum/w", 4)
    mlp, _ = dimensions(f"{LAYER}/mlp/linear/w", 2)
    sizes = {
        "embed_dim": embed,
        "num_layers": count_layers(shapes),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "mlp_dim": mlp,
    }
    for known in KNOWN:
        if all(getattr(known, name) == size for name, size in sizes.items()):
            return dataclasses.replace(known, vocab_size=rows)
    raise CheckpointError(
        folder,
        expected="the sizes of 2B, 9B or 27B, whose window, caps and query scale are known",
        found=", ".join(f"{name} {size}" for name, size in sizes.items()),
        hint="for another size pass config=Gemma2Config(...)",
    )


def has_transposed_gate(config: Gemma2Config, shape: Shape | None, folder: Path) -> bool:
    """Whether the gating leaf is [2, mlp, embed], as its shape says; without one, as Google has it.

    Google's 2B is [2, embed, mlp], its 9B and 27B are [2, mlp, embed]; so are our other sizes.

    Raises:
      CheckpointError: mlp_dim equals embed_dim in another size, where nothing tells them apart.
    """
    embed, mlp = config.embed_dim, config.mlp_dim
    if embed == mlp:
        raise CheckpointError(
            folder,
            "mlp/gating_einsum/w",
            expected="mlp_dim other than embed_dim, to tell [2, mlp, embed] from [2, embed, mlp]",
            found=f"both {embed}",
            hint="use the Hugging Face layout",
        )
    if shape is not None:
        return shape != (2, embed, mlp)
    small = KNOWN[0]
    return (config.num_layers, embed, mlp) != (small.num_layers, small.embed_dim, small.mlp_dim)


@dataclasses.dataclass(frozen=True)
class _LazyArray:
    """An array to save that is computed when its turn comes."""

    shape: Shape
    dtype: np.dtype
    compute: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class _OneByOne(ocp.type_handlers.NumpyHandler):
    """Orbax's handler for NumPy arrays, which here computes, writes and drops them in turn."""

    async def serialize(self, values, infos, args=None):
        for value, info, arg in zip(values, infos, args or [ocp.SaveArgs()] * len(values)):
            for commit in await super().serialize([value.compute()], [info], [arg]):
                await asyncio.to_thread(commit.result)
        return []

    async def _open_and_write(self, value, tspec, ts_context):
        """Chunk by chunk: a write of the whole array would hold a copy of it and its encoding.

        Orbax's own method, which its `serialize` calls; without this one, only memory would grow.
        Its context would keep the index of what was written so far, up to 100 MB of it.
        """
        del ts_context
        no_cache = tensorstore.Context({"cache_pool#ocdbt": {"total_bytes_limit": 0}})
        store = await tensorstore.open(
            tensorstore.Spec(tspec), create=True, open=True, context=no_cache
        )
        sizes = np.array(store.chunk_layout.write_chunk.shape)
        for place in np.ndindex(*-(-np.array(value.shape) // sizes)):
            chunk = tuple(slice(a, a + n) for a, n in zip(place * sizes, sizes))
            block = np.ascontiguousarray(value[chunk])
            inside = tuple(slice(c.start, c.start + n) for c, n in zip(chunk, block.shape))
            await store[inside].write(block)


def _metadata(folder: Path) -> dict[str, _Leaf]:
    """Leaf name, keys joined with slashes -> leaf, as Orbax's metadata have it."""
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
            tree = orbax.metadata(folder.resolve()).item_metadata.tree
        flat = jax.tree_util.tree_leaves_with_path(tree)
        found = {}
        for path, leaf in flat:
            keys = tuple(str(getattr(step, "key", step)) for step in path)
            found["/".join(keys)] = _Leaf(keys, tuple(leaf.shape), np.dtype(leaf.dtype))
    except Exception as error:  # Orbax and TensorStore raise of many kinds
        raise _unreadable(folder, None, error) from error
    return found


def _restore(folder: Path, name: str, leaf: _Leaf) -> np.ndarray:
    """One leaf, as it is stored."""

    def nested(value: Any) -> Any:
        for key in reversed(leaf.keys):
            value = {key: value}
        return value

    wanted = nested(ocp.RestoreArgs(restore_type=np.ndarray))
    arguments = ocp.args.PyTreeRestore(item=nested(0), restore_args=wanted, partial_restore=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
            array = orbax.restore(folder.resolve(), args=arguments)
        for key in leaf.keys:
            array = array[key]
    except Exception as error:  # as above
        raise _unreadable(folder, name, error) from error
    if array.shape != leaf.shape:
        raise CheckpointError(
            folder, name, expected=shape_text(leaf.shape), found=shape_text(array.shape)
        )
    return array


def _unreadable(folder: Path, name: str | None, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return CheckpointError(folder, name, expected="what Orbax can read", found=reason)


def _here(folder: Path) -> Callable[[str], Path]:
    return lambda _: folder
