"""Rows cut into blocks, and which pairs of blocks attention has to look at.

Unusual: that follows from the positions and segments inside the blocks, at run time, never from
where they lie: rows in any order are right, and rows in order are cheap.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

type Tokens = tuple[Int[Array, "blocks batch block"], Int[Array, "blocks batch block"]]
"""Position and segment of each token, by block; what fills up the last block is segment 0."""

_INT32 = jnp.iinfo(jnp.int32)


def by_block(
    x: Float[Array, "batch time heads dim"], kv_heads: int, block: int
) -> Float[Array, "blocks batch kv_heads rows dim"]:
    """Cut into blocks; rows = groups * block: the queries that meet the same keys, as one matrix.

    Query head n belongs to group n % (heads / kv_heads) of key/value head n // (heads / kv_heads).
    The last block is filled up with zeros.
    """
    batch, time, heads, dim = x.shape
    x = jnp.pad(x, ((0, 0), (0, -time % block), (0, 0), (0, 0)))
    x = x.reshape(batch, -1, block, kv_heads, heads // kv_heads, dim)
    return x.transpose(1, 0, 3, 4, 2, 5).reshape(x.shape[1], batch, kv_heads, -1, dim)


def by_time(
    x: Float[Array, "blocks batch kv_heads rows dim"], time: int, block: int
) -> Float[Array, "batch time heads dim"]:
    """The way back from `by_block`."""
    blocks, batch, kv_heads, rows, dim = x.shape
    x = x.reshape(blocks, batch, kv_heads, rows // block, block, dim).transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(batch, blocks * block, -1, dim)[:, :time]


def tokens_by_block(
    positions: Int[Array, "batch time"], segments: Int[Array, "batch time"], block: int
) -> Tokens:
    """Positions and segments, cut as `by_block` cuts."""

    def cut(x: Int[Array, "batch time"]) -> Int[Array, "blocks batch block"]:
        padded = jnp.pad(x.astype(jnp.int32), ((0, 0), (0, -x.shape[1] % block)))
        return padded.reshape(x.shape[0], -1, block).swapaxes(0, 1)

    return cut(positions), cut(segments)


def visits(
    tokens: Tokens, window: Int[Array, ""]
) -> tuple[Int[Array, " blocks"], Int[Array, " blocks"]]:
    """For each query block the first key block to visit, and the one to stop before.

    A pair of blocks needs a visit if, in some row of the batch, some query may see the range of
    positions and segments of the keys, and some key the range of the queries. Ranges of both alone
    would not do: where a block holds the end of one document and the start of the next, its range
    reaches back over all of the first. All between the first and the last block that needs a visit
    are visited; in rows in order there are no others between them.

    Costs time^2 / block comparisons, one query block at a time: a buffer of `time` booleans.
    """
    real = tokens[1] != 0
    low = (jnp.where(real, x, _INT32.max).min(-1) for x in tokens)
    high = (jnp.where(real, x, _INT32.min).max(-1) for x in tokens)
    ranges = tuple(x[..., None] for x in (*low, *high, real.any(-1)))
    each = (*tokens, *tokens, real)

    def visited(query: tuple[tuple[Array, ...], tuple[Array, ...]]) -> tuple[Array, Array]:
        query_range, each_query = (tuple(x[None] for x in part) for part in query)
        room = _may_see(query_range, each, window).any(-1)
        needed = (room & _may_see(each_query, ranges, window).any(-1)).any(-1)  # [key blocks]
        first, stop = jnp.argmax(needed), needed.size - jnp.argmax(needed[::-1])
        return first, jnp.where(needed.any(), stop, first)

    return jax.lax.map(visited, (ranges, each))


def _may_see(queries: tuple[Array, ...], keys: tuple[Array, ...], window: Array) -> Array:
    """Whether some query in a range may see some key in another, by positions and segments.

    A range: lowest position, lowest segment, highest position, highest segment, and whether there
    are any tokens in it that are not padding.
    """
    low_query, low_query_segment, high_query, high_query_segment, any_query = queries
    low_key, low_key_segment, high_key, high_key_segment, any_key = keys
    return (
        any_query
        & any_key
        & (low_key <= high_query)
        & (low_query - high_key < window)
        & (low_query_segment <= high_key_segment)
        & (low_key_segment <= high_query_segment)
    )
