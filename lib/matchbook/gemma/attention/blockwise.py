"""Attention in blocks (section 2), on any device: memory O(time x block) instead of O(time^2).

An online softmax over key blocks, and a backward pass that recomputes their scores from q, k, v,
the output and one number per query. Unusual: which blocks are visited is found at run time
(`blocks.visits`), so a local layer pays for its window, and a packed row for its documents.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from matchbook.gemma.attention.blocks import by_block, by_time, tokens_by_block, visits
from matchbook.gemma.attention.masks import visible_between
from matchbook.gemma.layers import soft_cap

BLOCK = 128  # on a CPU; as fast as 256 for long rows, and twice as fast at 512 tokens
_NO_WINDOW = jnp.iinfo(jnp.int32).max
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
    """What `dense_attention` computes, from `block` queries and `block` keys at a time.

    Any length, any number of query heads per key/value head, any order of tokens. Blocks are
    visited from the first to the last one that some row of the batch needs: in a local layer of
    rows in order, at most ceil((window - 1) / block) + 1 for each block of queries. The window is
    data, not part of the program: all windows share one compilation.

    Scores, softmax and sums are float32; as in `dense_attention`, weights are rounded to the dtype
    of v before their product with it. Differentiable in reverse mode only; where forward mode is
    wanted (`jvp`, `hessian`), JAX raises TypeError: take `dense_attention`.
    """
    limit = jnp.asarray(_NO_WINDOW if window is None else window, jnp.int32)
    block = min(block, q.shape[1])
    return _compiled(q, k, v, positions, segments, limit, softcap, scale, block)


@partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _attention(q, k, v, positions, segments, window, softcap, scale, block):
    return _forward(q, k, v, positions, segments, window, softcap, scale, block)[0]


def _forward(q, k, v, positions, segments, window, softcap, scale, block):
    """The output, and what the backward pass needs: inputs, output, log of each softmax's sum."""
    time, kv_heads = k.shape[1:3]
    tokens = tokens_by_block(positions, segments, block)
    keys, values = by_block(k, kv_heads, block), by_block(v, kv_heads, block)

    def query_block(inputs):
        queries, query_tokens, first, stop = inputs

        def key_block(index, carry):
            highest, total, mixed = carry
            seen = _seen(query_tokens, (x[index] for x in tokens), window)
            scores, _ = _scores(queries, keys[index], softcap, scale)
            scores = jnp.where(seen, scores, _MASKED)
            new_highest = jnp.maximum(highest, scores.max(-1))
            # The second `where` matters for queries that have seen no key yet: exp(0) is not 0.
            weights = jnp.where(seen, jnp.exp(scores - new_highest[..., None]), 0.0)
            kept = jnp.exp(highest - new_highest)
            part = _product("bkqs,bksh->bkqh", weights.astype(v.dtype), values[index])
            return new_highest, kept * total + weights.sum(-1), kept[..., None] * mixed + part

        rows = queries.shape[:-1]
        start = (jnp.full(rows, _MASKED, jnp.float32), _zeros(rows), _zeros(queries.shape))
        highest, total, mixed = jax.lax.fori_loop(first, stop, key_block, start)
        total = jnp.where(total > 0, total, 1.0)
        return (mixed / total[..., None]).astype(q.dtype), highest + jnp.log(total)

    queries = by_block(q, kv_heads, block)
    groups = q.shape[2] // kv_heads
    inputs = (queries, _repeated(tokens, groups), *visits(tokens, window))
    mixed, log_total = jax.lax.map(query_block, inputs)
    out = by_time(mixed, time, block)
    return out, (q, k, v, positions, segments, window, out, log_total)


def _backward(softcap, scale, block, saved, d_out):
    """Gradients of q, k and v from that of the output: five products for each pair of blocks.

    With weights p, capped scores c and D = sum(d_out * out) of a query, d_c = p * (d_out v^T - D),
    and c = softcap * tanh(s / softcap) gives d_s = d_c * (1 - (c / softcap)^2).
    """
    q, k, v, positions, segments, window, out, log_total = saved
    time, kv_heads = k.shape[1:3]
    tokens = tokens_by_block(positions, segments, block)
    keys, values = by_block(k, kv_heads, block), by_block(v, kv_heads, block)
    inner = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), -1, keepdims=True)

    def query_block(carry, inputs):
        queries, d_mixed, inner, log_total, query_tokens, first, stop = inputs

        def key_block(index, carry):
            d_queries, d_keys, d_values = carry
            seen = _seen(query_tokens, (x[index] for x in tokens), window)
            scores, slope = _scores(queries, keys[index], softcap, scale)
            weights = jnp.where(seen, jnp.exp(scores - log_total[..., None]), 0.0)
            d_weights = _product("bkqh,bksh->bkqs", d_mixed, values[index])
            d_scores = (weights * (d_weights - inner) * slope).astype(q.dtype)
            weights = weights.astype(d_mixed.dtype)
            return (
                d_queries + _product("bkqs,bksh->bkqh", d_scores, keys[index]),
                _add(d_keys, index, _product("bkqs,bkqh->bksh", d_scores, queries)),
                _add(d_values, index, _product("bkqs,bkqh->bksh", weights, d_mixed)),
            )

        start = (_zeros(queries.shape), *carry)
        d_queries, *carry = jax.lax.fori_loop(first, stop, key_block, start)
        return tuple(carry), d_queries.astype(q.dtype)

    inputs = (
        *(by_block(x, kv_heads, block) for x in (q, d_out)),
        by_block(inner, kv_heads, block),
        log_total,
        _repeated(tokens, q.shape[2] // kv_heads),
        *visits(tokens, window),
    )
    start = (_zeros(keys.shape), _zeros(values.shape))
    (d_keys, d_values), d_queries = jax.lax.scan(query_block, start, inputs)
    d_q, d_k, d_v = (by_time(x, time, block) for x in (d_queries, d_keys, d_values))
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None, None, None


_attention.defvjp(_forward, _backward)
_compiled = jax.jit(_attention, static_argnums=(6, 7, 8))
_zeros = partial(jnp.zeros, dtype=jnp.float32)


def _scores(queries, keys, softcap, scale):
    """Capped scores [batch, kv_heads, rows, keys] and their slope in what q k^T gives."""
    capped = soft_cap(_product("bkqh,bksh->bkqs", queries, keys) * scale, softcap)
    slope = scale if softcap is None else scale * (1.0 - (capped / softcap) ** 2)
    return capped, slope


def _seen(queries, keys, window) -> Bool[Array, "batch 1 rows keys"]:
    return visible_between(queries, tuple(keys), window)[:, None]


def _product(equation, x, y):
    """Batched products of two matrices, without split heads: XLA's CPU backend is fast at these."""
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _add(blocks, index, update):
    """`blocks` with `update` added to one of them, in place inside a loop."""
    return jax.lax.dynamic_update_index_in_dim(blocks, blocks[index] + update, index, 0)


def _repeated(tokens, groups):
    """Positions and segments of the rows of `by_block`: a block's tokens, once for each group."""
    return tuple(jnp.tile(x, (1, 1, groups)) for x in tokens)
