"""Attention by JAX's own TPU kernel, "splash": flash attention that skips masked blocks.

Section 2's soft cap, window and grouped heads are the kernel's own. Unusual: it masks by place in
the row, so rows have to be in order (`places`); it has no scale, so the queries carry it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from matchbook.gemma.attention.places import only_what_is_asked, require_order

LANES = 128  # the kernel's blocks are multiples of this
LARGEST_BLOCK = 512


def splash_attention(
    q: Float[Array, "batch time heads head_dim"],
    k: Float[Array, "batch time kv_heads head_dim"],
    v: Float[Array, "batch time kv_heads head_dim"],
    *,
    positions: Int[Array, "batch time"],
    segments: Int[Array, "batch time"],
    window: int | None,
    softcap: int | float | None,
    scale: int | float,
    interpret: bool = False,
) -> Float[Array, "batch time heads head_dim"]:
    """What `dense_attention` computes, for rows in order; others raise, or are NaN under `jit`.

    The scaled queries are rounded to their dtype: exact in bfloat16 where `scale` is a power of
    two (2B and 9B: 1/16), 8 bits of it at 27B (1/12). Rows are padded to whole blocks. With
    `interpret` it runs on any device, slowly, for tests; without, JAX raises ValueError off a TPU.
    Across several devices a kernel has to be called inside `shard_map`.

    Raises:
      ValueError: rows not in order, a window below 1, an unknown number of heads per key/value
        head.
    """
    time, heads, kv_heads = *q.shape[1:3], k.shape[2]
    if heads % kv_heads:
        raise ValueError(f"expected heads to be a multiple of {kv_heads=}, got {heads}")
    if window is not None and window < 1:
        raise ValueError(f"attention 'splash': expected a window of at least 1, got {window}")
    require_order(positions, segments, "splash")
    block = min(LARGEST_BLOCK, time + (-time % LANES))
    padding = -time % block
    kernel = _kernel(time + padding, heads, window, softcap, block, interpret)

    def heads_first(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))).swapaxes(1, 2)

    queries = (q.astype(jnp.float32) * scale).astype(q.dtype)
    # What fills up a block is segment 0, padding, which sees padding in the kernel: no empty rows.
    padded = jnp.pad(segments.astype(jnp.int32), ((0, 0), (0, padding)))
    out = jax.vmap(kernel)(*(heads_first(x) for x in (queries, k, v)), padded)
    out = out.swapaxes(1, 2)[:, :time].astype(q.dtype)
    return only_what_is_asked(out, positions, segments)


def _kernel(time, heads, window, softcap, block, interpret):
    """One row's kernel: queries, keys, values [heads, time, head_dim] and segments to outputs."""
    # Imported here: 0.5 s that only a TPU should pay.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape = (time, time)
    if window is None:
        mask = splash.CausalMask(shape)
    else:
        mask = splash.LocalMask(shape, (window - 1, 0), 0)  # places before and after, offset
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(**{f"block_{name}": block for name in names}),
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )
    return lambda q, k, v, segments: kernel(q, k, v, splash.SegmentIds(segments, segments))
