"""Gemma 2's attention (section 2), written as its definition: one [time, time] matrix per head.

Unusual: what a query sees follows from positions and segments, never from where a token happens to
lie in a row, so left padding and packing need no special case; scores are soft-capped *before* the
mask; the window of a local layer counts the token itself.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.layers import Rotation, apply_rope, fan_in_normal, project, soft_cap


def visible(
    positions: Int[Array, "batch time"], segments: Int[Array, "batch time"], window: int | None
) -> Bool[Array, "batch time time"]:
    """Which keys (last axis) each query (middle axis) sees.

    A query at position p sees the keys of its own segment at positions k with p - window < k <= p,
    so `window` of them at most, itself included; all k <= p where `window` is None. Segment 0 is
    padding: it sees nothing, and nothing sees it.
    """
    behind = positions[:, :, None] - positions[:, None, :]
    seen = (behind >= 0) & (segments[:, :, None] == segments[:, None, :])
    seen &= (segments != 0)[:, :, None]
    return seen if window is None else seen & (behind < window)


def attention(
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
    batch, time, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(batch, time, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    mask = visible(positions, segments, window)[:, None, None, :, :]
    scores = jnp.where(mask, soft_cap(scores * scale, softcap), jnp.finfo(jnp.float32).min)
    # The second `where` only matters for rows without any visible key: zeros instead of a mean.
    probabilities = jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0.0).astype(v.dtype)
    mixed = jnp.einsum("bkgts,bskh->btkgh", probabilities, v, preferred_element_type=jnp.float32)
    return mixed.reshape(batch, time, heads, head_dim).astype(q.dtype)


class Attention(nnx.Module):
    """Projections, rotary embedding and `attention`; no biases, no norms on queries or keys."""

    def __init__(
        self,
        config: Gemma2Config,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        stack: tuple[int, ...] = (),
    ):
        def weights(*shape: int, fan_in: int) -> nnx.Param:
            return nnx.Param(fan_in_normal(rngs.params(), (*stack, *shape), fan_in, param_dtype))

        embed, head_dim = config.embed_dim, config.head_dim
        self.config = config
        self.dtype = dtype
        self.query = weights(embed, config.num_heads, head_dim, fan_in=embed)
        self.key = weights(embed, config.num_kv_heads, head_dim, fan_in=embed)
        self.value = weights(embed, config.num_kv_heads, head_dim, fan_in=embed)
        self.output = weights(config.num_heads, head_dim, embed, fan_in=config.num_heads * head_dim)

    def __call__(
        self,
        x: Float[Array, "batch time embed"],
        *,
        rotation: Rotation,
        positions: Int[Array, "batch time"],
        segments: Int[Array, "batch time"],
        window: int | None,
    ) -> Float[Array, "batch time embed"]:
        """Self-attention of `x`; `rotation` is `rope_rotation(positions, ...)`."""

        def heads(weights: nnx.Param) -> Array:
            return project(x, weights[...], self.dtype).reshape(*x.shape[:2], *weights.shape[1:])

        mixed = attention(
            apply_rope(heads(self.query), rotation),
            apply_rope(heads(self.key), rotation),
            heads(self.value),
            positions=positions,
            segments=segments,
            window=window,
            softcap=self.config.attention_softcap,
            scale=self.config.query_scale,
        )
        flat = mixed.reshape(*x.shape[:2], -1)
        return project(flat, self.output[...].reshape(flat.shape[-1], -1), self.dtype)
