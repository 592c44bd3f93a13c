"""Gemma 2's attention (section 2), written as its definition: one [time, time] matrix per head.

Every other implementation is tested against this one. Unusual: scores are soft-capped *before* the
mask; the window of a local layer counts the token itself.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from matchbook.gemma.attention.masks import visible
from matchbook.gemma.layers import soft_cap


def dense_attention(
    q: Float[Array, "batch time heads head_dim"],
    k: Float[Array, "batch time kv_heads head_dim"],
    v: Float[Array, "batch time kv_heads head_dim"],
    *,
    positions: Int[Array, "batch time"],
    segments: Int[Array, "batch time"],
    window: int | None,
    softcap: int | float | None,
    scale: int | float,
) -> Float[Array, "batch time heads head_dim"]:
    """softmax(mask(soft_cap(scale * q k^T))) v; softmax in float32, result in the dtype of q.

    Args:
      q: queries, rotated but not scaled.
      k: keys, rotated; query head n reads key/value head n // (heads / kv_heads).
      v: values.
      positions: position of each token within its document.
      segments: document of each token, 0 for padding. A padding query gives zeros.
      window: positions a query sees, itself included; None for all before it.
      softcap: cap on the scaled scores, or None.
      scale: what the scores are multiplied by; `Gemma2Config.query_scale`.

    Costs a few [batch, heads, time, time] float32 buffers: 2.1 GB each at 8 heads and 8192 tokens.
    """
    mask = visible(positions, segments, window)
    return dense_between(q, k, v, mask=mask, softcap=softcap, scale=scale)


def dense_between(
    q: Float[Array, "batch queries heads head_dim"],
    k: Float[Array, "batch keys kv_heads head_dim"],
    v: Float[Array, "batch keys kv_heads head_dim"],
    *,
    mask: Bool[Array, "batch queries keys"],
    softcap: int | float | None,
    scale: int | float,
) -> Float[Array, "batch queries heads head_dim"]:
    """As `dense_attention` for queries that are not the keys; `mask` says which keys each sees."""
    batch, time, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(batch, time, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    seen = mask[:, None, None, :, :]
    scores = jnp.where(seen, soft_cap(scores * scale, softcap), jnp.finfo(jnp.float32).min)
    # The second `where` only matters for rows without any visible key: zeros instead of a mean.
    probabilities = jnp.where(seen, jax.nn.softmax(scores, axis=-1), 0.0).astype(v.dtype)
    mixed = jnp.einsum("bkgts,bskh->btkgh", probabilities, v, preferred_element_type=jnp.float32)
    return mixed.reshape(batch, time, heads, head_dim).astype(q.dtype)
