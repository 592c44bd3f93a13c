"""Sums over tokens of what needs all logits of a token, for one chunk of tokens at a time.

At Gemma 2's vocabulary of 256,128 the logits of 4,096 tokens are 4.2 GB in float32, and autodiff
keeps several such arrays. Unusual: the gradient is made beside the value, in one pass over the
chunks. So the backward pass needs no logits, neither kept nor computed again: it only scales.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from matchbook import divergences
from matchbook.gemma.layers import soft_cap

CHUNK_LOGITS = 2**26  # of one model, 268 MB in float32: 262 tokens of Gemma 2's vocabulary

SumAndCount = tuple[Float[Array, ""], Float[Array, ""]]
# From the student's capped logits [chunk, vocab], rows of one chunk, and what all chunks share.
RowLosses = Callable[[Array, Any, Any], Array]


def sum_over_tokens(
    row_losses: RowLosses,
    hidden: Float[Array, "*batch embed"],
    table: Float[Array, "vocab embed"],
    where: Bool[Array, "*batch"],
    *,
    softcap: int | float | None,
    per_token: Any,
    shared: Any,
    chunk_size: int | None = None,
) -> SumAndCount:
    """The sum of any loss of the logits of single positions, and the number of positions.

    Only `hidden` and `table` get a gradient, in one pass and of first order.

    Args:
      row_losses: from capped float32 logits [chunk, vocab], the chunk of `per_token` and `shared`
        to losses [chunk]. It must not close over traced arrays.
      hidden: the stream after the final norm.
      table: the output projection.
      where: positions that count.
      softcap: of the logits; None for none.
      per_token: arrays that begin with the dimensions of `where`, cut like `hidden`.
      shared: arrays that every chunk sees whole.
      chunk_size: most tokens whose logits exist at a time; by default as many as have
        `CHUNK_LOGITS` of them.

    Raises:
      ValueError: a chunk without tokens.
    """
    cut = functools.partial(in_chunks, batch=where.shape, chunk_size=chunk_size, vocab=len(table))
    total = _total(
        row_losses,
        softcap,
        cut(hidden),
        table,
        cut(where),
        jax.tree.map(cut, per_token),
        shared,
    )
    return total, jnp.sum(where.astype(jnp.float32))


def in_chunks(x: Array, batch: tuple[int, ...], chunk_size: int | None, vocab: int) -> Array:
    """[*batch, ...] as [chunks, tokens, ...], zeros at the end; `chunk_size` as elsewhere.

    Chunk c takes tokens c, c + chunks, c + 2 * chunks ...: where tokens are sharded over devices,
    every device then has an equal part of every chunk.

    Raises:
      ValueError: a chunk without tokens.
    """
    if chunk_size is None:
        chunk_size = max(1, CHUNK_LOGITS // vocab)
    if chunk_size < 1:
        raise ValueError(f"chunk_size: expected at least 1 token, got {chunk_size}")
    flat = x.reshape(-1, *x.shape[len(batch) :])
    chunks = max(1, -(-len(flat) // chunk_size))
    size = -(-len(flat) // chunks)  # at most chunk_size, and as even as can be
    flat = jnp.pad(flat, [(0, chunks * size - len(flat))] + [(0, 0)] * (flat.ndim - 1))
    return flat.reshape(size, chunks, *flat.shape[1:]).swapaxes(0, 1)


def project_to_vocab(
    hidden: Float[Array, "chunk embed"], table: Float[Array, "vocab embed"]
) -> Float[Array, "chunk vocab"]:
    """Logits before the cap: products in the dtype of both, sums in float32."""
    return jnp.einsum("te,ve->tv", hidden, table, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(
    row_losses: RowLosses,
    softcap: int | float | None,
    hidden: Array,
    table: Array,
    where: Array,
    per_token: Any,
    shared: Any,
) -> Array:
    """The sum over all chunks: `hidden` and all of `per_token` are [chunks, chunk_size, ...]."""

    weights = table.astype(hidden.dtype)

    def add(total: Array, chunk: Any) -> tuple[Array, None]:
        hidden, where, per_token = _zero_outside(chunk)
        loss = _chunk_loss(row_losses, softcap, where, per_token, shared)
        return total + loss(project_to_vocab(hidden, weights)), None

    return jax.lax.scan(add, jnp.zeros((), jnp.float32), (hidden, where, per_token))[0]


def _total_and_gradients(
    row_losses: RowLosses,
    softcap: int | float | None,
    hidden: Array,
    table: Array,
    where: Array,
    per_token: Any,
    shared: Any,
) -> tuple[Array, tuple[Array, Array]]:
    """The sum, and its gradients with respect to `hidden` and `table`."""

    weights = table.astype(hidden.dtype)

    def add(carry: tuple[Array, Array], chunk: Any) -> tuple[tuple[Array, Array], Array]:
        total, of_table = carry
        hidden, where, per_token = _zero_outside(chunk)
        loss = _chunk_loss(row_losses, softcap, where, per_token, shared)
        value, of_logits = jax.value_and_grad(loss)(project_to_vocab(hidden, weights))
        of_logits = of_logits.astype(hidden.dtype)
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        of_hidden = product("tv,ve->te", of_logits, weights).astype(hidden.dtype)
        of_table = of_table + product("tv,te->ve", of_logits, hidden)
        return (total + value, of_table), of_hidden

    start = jnp.zeros((), jnp.float32), jnp.zeros(table.shape, jnp.float32)
    (total, of_table), of_hidden = jax.lax.scan(add, start, (hidden, where, per_token))
    return total, (of_hidden, of_table.astype(table.dtype))


def _scale_gradients(
    row_losses: RowLosses,
    softcap: int | float | None,
    gradients: tuple[Array, Array],
    scale: Array,
) -> tuple[Array | None, ...]:
    of_hidden, of_table = ((x * scale.astype(x.dtype)) for x in gradients)
    return of_hidden, of_table, None, None, None


_total.defvjp(_total_and_gradients, _scale_gradients)


def _chunk_loss(
    row_losses: RowLosses,
    softcap: int | float | None,
    where: Array,
    per_token: Any,
    shared: Any,
) -> Callable[[Array], Array]:
    """The sum over one chunk as a function of the logits before the cap."""

    def loss(logits: Array) -> Array:
        return divergences.sum_and_count(
            row_losses(soft_cap(logits, softcap), per_token, shared), where
        )[0]

    return loss


def _zero_outside(chunk: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
    """The chunk with zeros where nothing counts: NaN there, times a gradient of 0, were NaN."""
    hidden, where, per_token = chunk

    def zero(x: Array) -> Array:
        return jnp.where(where.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))

    return zero(hidden), where, jax.tree.map(zero, per_token)
