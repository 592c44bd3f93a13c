"""Attention in blocks (section 2), on any device: memory O(time x block) instead of O(time^2).

An online softmax over key blocks, and a backward pass that recomputes their scores. Unusual: which
key blocks a query block visits follows, at run time, from the positions and segments inside them.
A local layer visits the blocks its window reaches, a global one those before it, a packed row
those of its own documents; and tokens may lie in any order, which only costs more visits.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from matchbook.gemma.attention.masks import visible_between
from matchbook.gemma.layers import soft_cap

BLOCK = 256
_HIGHEST = jnp.iinfo(jnp.int32).max
_LOWEST = jnp.iinfo(jnp.int32).min
_MASKED = float(jnp.finfo(jnp.float32).min)


def blockwise_attention(
    q: Float[Array, "batch time heads head_dim"],
    k: Float[Array, "batch time kv_heads head_dim"],
    v: Float[Array, "batch time kv_heads head_dim"],
    *,
    positions: Int[Array, "batch time"],
    segments: Int[Array, "batch time"],
    window: int | None,
    softcap: int | float | None,
    scale: int | float,
    block: int = BLOCK,
) -> Float[Array, "batch time heads head_dim"]:
    """What `dense_attention` computes, `block` queries and `block` keys at a time.

    Any length, any number of heads per key/value head, any order of tokens. Blocks are visited
    from the first to the last one that some row of the batch needs; a local layer in order needs
    ceil((window - 1) / block) + 1 of them. The window is data: all windows share one program.

    Scores, softmax and sums are float32; weights are rounded to the dtype of `v` before their
    product with it. Reverse-mode differentiation only: forward mode has to ask for "dense".
    """
    limit = jnp.int32(_HIGHEST if window is None else window)
    tokens = positions.astype(jnp.int32), segments.astype(jnp.int32)
    return _attention(q, k, v, *tokens, limit, softcap, scale, min(block, q.shape[1]))


class _Tokens(NamedTuple):
    """Position and segment of each token, by block; what padding adds is segment 0."""

    positions: Int[Array, "blocks batch block"]
    segments: Int[Array, "blocks batch block"]


def visits(
    positions: Int[Array, "blocks batch block"],
    segments: Int[Array, "blocks batch block"],
    limit: Int[Array, ""],
) -> tuple[Int[Array, " blocks"], Int[Array, " blocks"]]:
    """For each query block the first key block to visit, and the one to stop before.

    Two blocks are skipped only if the ranges of their positions, or of their segments, show that
    no query of one can see a key of the other, in no row; padding belongs to no range.
    """
    real = segments != 0
    low, high = (
        (jnp.where(real, x, _HIGHEST).min(-1), jnp.where(real, x, _LOWEST).max(-1))
        for x in (positions, segments)
    )
    (first_position, last_position), (first_segment, last_segment) = low, high
    present = real.any(-1)
    needed = present[:, None] & present[None, :]
    needed &= first_position[None, :] <= last_position[:, None]
    needed &= first_position[:, None] - last_position[None, :] < limit
    needed &= first_segment[None, :] <= last_segment[:, None]
    needed &= first_segment[:, None] <= last_segment[None, :]
    needed = needed.any(-1)
    first = jnp.argmax(needed, axis=1)
    stop = needed.shape[1] - jnp.argmax(needed[:, ::-1], axis=1)
    return first, jnp.where(needed.any(1), stop, first)


def _by_block(x: Float[Array, "batch time heads dim"], kv_heads: int, block: int) -> Array:
    """[blocks, batch, kv_heads, groups * block, dim]: what meets the same keys in one matrix."""
    batch, time, heads, dim = x.shape
    blocks = -(-time // block)
    x = jnp.pad(x, ((0, 0), (0, blocks * block - time), (0, 0), (0, 0)))
    x = x.reshape(batch, blocks, block, kv_heads, heads // kv_heads, dim)
    return x.transpose(1, 0, 3, 4, 2, 5).reshape(blocks, batch, kv_heads, -1, dim)


def _by_time(x: Float[Array, "blocks batch kv_heads rows dim"], time: int, block: int) -> Array:
    """The way back from `_by_block`."""
    blocks, batch, kv_heads, rows, dim = x.shape
    x = x.reshape(blocks, batch, kv_heads, rows // block, block, dim).transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(batch, blocks * block, -1, dim)[:, :time]


def _tokens_by_block(positions: Array, segments: Array, block: int) -> _Tokens:
    batch, time = positions.shape
    padded = (jnp.pad(x, ((0, 0), (0, -time % block))) for x in (positions, segments))
    return _Tokens(*(x.reshape(batch, -1, block).swapaxes(0, 1) for x in padded))
