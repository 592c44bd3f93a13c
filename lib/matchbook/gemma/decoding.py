"""The model with a cache, one token per row at a time; `reading` takes whole prompts.

Unusual: there are two forms of one set of weights. All else scans the stacked ones, so that it
compiles like two layers. Decoding is bound by reading weights, and a scan copies a layer's weights
before it uses them, so `unstack` cuts them into layers once before the loop; a program of 46 layers
is the price. It also turns them, since a product of few rows is faster as one of few columns.
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
    soft_cap,
)
from matchbook.gemma.model import Layer, Transformer

MANY = 64
"""Rows from which it does not matter on a CPU which factor of a product comes first."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """What a pytree carries beside arrays: part of its structure, so a change compiles again."""

    value: Gemma2Config


class Turned(NamedTuple):
    """A matrix that multiplies columns, as an `Embedder`'s table lies; a pytree of its array."""

    matrix: Float[Array, "outer inner"]


type Matrix = Float[Array, "inner outer"] | Turned


class UnstackedLayer(NamedTuple):
    """A `Layer` by itself, its matrices two-dimensional and in the activation dtype."""

    pre_attention_norm: RMSNorm | NoNorm
    query: Matrix
    key: Matrix
    value: Matrix
    output: Matrix
    post_attention_norm: RMSNorm | NoNorm
    pre_mlp_norm: RMSNorm | NoNorm
    gate: Matrix
    up: Matrix
    down: Matrix
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

    def layer(index: int) -> UnstackedLayer:
        stack = model.pairs.global_layer if index % 2 else model.pairs.local_layer
        one = jax.tree.map(itemgetter(index // 2), stack)
        return unstacked_layer(one, dtype, turned=rows < MANY)

    return Unstacked(
        config=Static(model.config),
        embedder=jax.tree.map(lambda table: table.astype(dtype), model.embedder),
        layers=tuple(map(layer, range(model.config.num_layers))),
        final_norm=model.final_norm,
    )


def unstacked_layer(layer: Layer, dtype: DTypeLike, *, turned: bool = False) -> UnstackedLayer:
    """The layer with heads side by side in one matrix, turned or as it lies."""
    attention, mlp = layer.attention, layer.mlp
    embed = mlp.gate.shape[0]

    def matrix(weights: nnx.Param, *shape: int) -> Matrix:
        flat = weights[...].astype(dtype).reshape(shape)
        return Turned(flat.T) if turned else flat

    return UnstackedLayer(
        pre_attention_norm=layer.pre_attention_norm,
        query=matrix(attention.query, embed, -1),
        key=matrix(attention.key, embed, -1),
        value=matrix(attention.value, embed, -1),
        output=matrix(attention.output, -1, embed),
        post_attention_norm=layer.post_attention_norm,
        pre_mlp_norm=layer.pre_mlp_norm,
        gate=matrix(mlp.gate, embed, -1),
        up=matrix(mlp.up, embed, -1),
        down=matrix(mlp.down, -1, embed),
        post_mlp_norm=layer.post_mlp_norm,
    )


def times(
    x: Float[Array, "*batch inner"], matrix: Matrix, dtype: DTypeLike | None = None
) -> Float[Array, "*batch outer"]:
    """x times a matrix, summed and given in `dtype` where that is not None.

    For a CPU, XLA packs the right factor before each product, which takes longer than a product of
    a few rows does. So a turned matrix comes first, and rows become columns: a token each of 1, 4,
    8 and 32 rows takes .96, .52, .57 and .72 of the time in the model of `bench/decode.py`. Without
    the barrier XLA would turn the product around again.
    """
    rows = x.reshape(-1, x.shape[-1])
    if not isinstance(matrix, Turned):
        product = jnp.matmul(rows, matrix, preferred_element_type=dtype)
    elif jax.default_backend() == "cpu" and len(rows) < MANY:
        columns = jnp.matmul(matrix.matrix, rows.T, preferred_element_type=dtype)
        product = jax.lax.optimization_barrier(columns).T
    else:
        product = jnp.matmul(rows, matrix.matrix.T, preferred_element_type=dtype)
    return product.reshape(*x.shape[:-1], -1)


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

    def heads(rows: Array, matrix: Matrix) -> Array:
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
    table = Turned(weights.embedder.table[...])
    logits = soft_cap(times(weights.final_norm(x[:, 0]), table, jnp.float32), config.final_softcap)
    return logits, Cache(column + 1, local_positions, global_positions, tuple(layers))
