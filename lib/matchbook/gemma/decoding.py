"""The model with a cache, one token per row at a time; `reading` takes whole prompts.

Unusual: there are two forms of one set of weights. All else scans the stacked ones, so that it
compiles like two layers. Decoding is bound by reading weights, and a scan copies a layer's weights
before it uses them, so `unstack` cuts them into layers, and for a CPU into panels, once before the
loop; a program of 46 layers is the price.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from matchbook.gemma.cache import (
    Cache,
    Slots,
    attend,
    seen,
    write,
    write_positions,
)
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.layers import (
    Embedder,
    NoNorm,
    RMSNorm,
    Rotation,
    apply_rope,
    rope_rotation,
)
from matchbook.gemma.model import Layer, Transformer

PANEL = 64
"""Columns of a matrix that lie together on a CPU.

For several rows XLA packs the matrix into such panels before each product; here it already is. All
layers of the model of `bench/decode.py` took 6.5 rather than 7.5 ms of one core for a token each of
8 rows, and 3.8 rather than 4.3 ms for 1 row.
"""

MANY = 64
"""Rows from which packing pays for itself, and panels cost: 29 rather than 23 ms for 128 rows."""

type Panels = Float[Array, "panels inner width"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """What a pytree carries beside arrays: part of its structure, so a change compiles again."""

    value: Gemma2Config


class UnstackedLayer(NamedTuple):
    """A `Layer` by itself, its matrices as panels in the activation dtype."""

    pre_attention_norm: RMSNorm | NoNorm
    query: Panels
    key: Panels
    value: Panels
    output: Panels
    post_attention_norm: RMSNorm | NoNorm
    pre_mlp_norm: RMSNorm | NoNorm
    gate: Panels
    up: Panels
    down: Panels
    post_mlp_norm: RMSNorm | NoNorm


class Unstacked(NamedTuple):
    """A model in separate layers, for `decode`: a pytree of its arrays."""

    config: Static
    embedder: Embedder
    layers: tuple[UnstackedLayer, ...]
    final_norm: RMSNorm


def unstack(model: Transformer, rows: int = 1) -> Unstacked:
    """The model's weights, layer by layer: a copy of all of them but the table and the final norm.

    Compile it, alone or with the loop that follows, and call it once per set of weights: its cost
    is that of a few decoded tokens.

    Args:
      model: whose weights they are.
      rows: that are to be decoded together, as far as is known.
    """
    dtype = model.embedder.dtype
    width = PANEL if jax.default_backend() == "cpu" and rows < MANY else None

    def layer(index: int) -> UnstackedLayer:
        stack = model.pairs.global_layer if index % 2 else model.pairs.local_layer
        return in_panels(jax.tree.map(itemgetter(index // 2), stack), dtype, width)

    return Unstacked(
        config=Static(model.config),
        embedder=jax.tree.map(lambda table: table.astype(dtype), model.embedder),
        layers=tuple(map(layer, range(model.config.num_layers))),
        final_norm=model.final_norm,
    )


def in_panels(layer: Layer, dtype: DTypeLike, width: int | None) -> UnstackedLayer:
    """The layer in panels of `width` columns, or whole where that is None or no divisor."""

    def panels(weights: nnx.Param, inner: int) -> Panels:
        matrix = weights[...].astype(dtype).reshape(inner, -1)
        outer = matrix.shape[1]
        columns = outer if width is None or outer % width else width
        return matrix.reshape(inner, -1, columns).swapaxes(0, 1)

    attention, mlp = layer.attention, layer.mlp
    embed, hidden = mlp.gate.shape
    return UnstackedLayer(
        pre_attention_norm=layer.pre_attention_norm,
        query=panels(attention.query, embed),
        key=panels(attention.key, embed),
        value=panels(attention.value, embed),
        output=panels(attention.output, attention.output.size // embed),
        post_attention_norm=layer.post_attention_norm,
        pre_mlp_norm=layer.pre_mlp_norm,
        gate=panels(mlp.gate, embed),
        up=panels(mlp.up, embed),
        down=panels(mlp.down, hidden),
        post_mlp_norm=layer.post_mlp_norm,
    )


def times(x: Float[Array, "batch time inner"], matrix: Panels) -> Float[Array, "batch time outer"]:
    """x times the matrix that was cut into panels: a product of two matrices for each panel.

    x is repeated so that panels are a batch; otherwise XLA would first put the matrix together.
    """
    rows = x.reshape(-1, x.shape[-1])
    if len(matrix) == 1:
        return (rows @ matrix[0]).reshape(*x.shape[:2], -1)
    repeated = jnp.broadcast_to(rows, (matrix.shape[0], *rows.shape))
    by_panel = jax.lax.dot_general(repeated, matrix, (((2,), (1,)), ((0,), (0,))))
    return by_panel.swapaxes(0, 1).reshape(*x.shape[:2], -1)


def through_layer[Kept](
    layer: UnstackedLayer,
    x: Float[Array, "batch time embed"],
    rotation: Rotation,
    mix: Callable[[Array, Array, Array], tuple[Array, Kept]],
    *,
    ends: bool = False,
) -> tuple[Float[Array, "batch time_or_1 embed"], Kept]:
    """A `Layer` with its attention left to the caller.

    Args:
      layer: its weights.
      x: the stream.
      rotation: `rope_rotation` of the positions of x.
      mix: attention: rotated queries and keys, and values, to mixed values and whatever else is to
        be kept, such as the layer's cache. All are [batch, time, heads, head_dim].
      ends: only the last column's stream is wanted. Its query alone is asked; keys and values are
        those of all columns.
    """
    head_dim = 2 * rotation[0].shape[-1]

    def heads(rows: Array, matrix: Panels) -> Array:
        return times(rows, matrix).reshape(*rows.shape[:2], -1, head_dim)

    normed = layer.pre_attention_norm(x)
    k, v = apply_rope(heads(normed, layer.key), rotation), heads(normed, layer.value)
    if ends:
        x, normed = x[:, -1:], normed[:, -1:]
        rotation = rotation[0][:, -1:], rotation[1][:, -1:]
    q = apply_rope(heads(normed, layer.query), rotation)
    mixed, kept = mix(q, k, v)
    x = x + layer.post_attention_norm(times(mixed.reshape(*x.shape[:2], -1), layer.output))
    normed = layer.pre_mlp_norm(x)
    gate = jax.nn.gelu(times(normed, layer.gate), approximate=True)
    return x + layer.post_mlp_norm(times(gate * times(normed, layer.up), layer.down)), kept


def decode(
    weights: Unstacked,
    cache: Cache,
    tokens: Int[Array, " batch"],
    positions: Int[Array, " batch"],
) -> tuple[Float[Array, "batch vocab"], Cache]:
    """Logits of the token that follows `tokens`, one per row, and the cache with these in it.

    Args:
      weights: from `unstack`.
      cache: with room for one more column.
      tokens: the next token of each row.
      positions: its place: one more than that of the token before it.
    """
    config, column = weights.config.value, cache.columns
    rotation = rope_rotation(positions[:, None], config.head_dim, config.rope_base)
    local_positions = write_positions(cache.local_positions, positions, column)
    global_positions = write_positions(cache.global_positions, positions, column)
    masks = (
        seen(local_positions, positions, config.sliding_window),
        seen(global_positions, positions, None),
    )
    softcap, scale = config.attention_softcap, config.query_scale

    def mix(slots: Slots, mask: Array, q: Array, k: Array, v: Array) -> tuple[Array, Slots]:
        slots = write(slots, k, v, column)
        return attend(q, slots, mask, softcap=softcap, scale=scale), slots

    x = weights.embedder.encode(tokens[:, None])
    layers = []
    for index, (layer, slots) in enumerate(zip(weights.layers, cache.layers, strict=True)):
        x, slots = through_layer(layer, x, rotation, partial(mix, slots, masks[index % 2]))
        layers.append(slots)
    logits = weights.embedder.decode(weights.final_norm(x[:, 0]))
    return logits, Cache(column + 1, local_positions, global_positions, tuple(layers))
