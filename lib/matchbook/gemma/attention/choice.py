"""One `attention` for all devices: which implementation computes it, and how a record says so.

Unusual: all implementations give the same numbers up to rounding, so the choice is about speed and
memory only; what one of them cannot do raises, and the choice never falls on it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from matchbook.gemma.attention import splash, tokamax
from matchbook.gemma.attention.blockwise import blockwise_attention
from matchbook.gemma.attention.dense import dense_attention

IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "dense": dense_attention,
    "blockwise": blockwise_attention,
    "tokamax": tokamax.tokamax_attention,
    "splash": splash.splash_attention,
}

LONG = 256
"""Tokens in a row from which `dense` is not taken; below, it compiles faster than it loses."""


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
    implementation: str | None = None,
) -> Float[Array, "batch time heads head_dim"]:
    """softmax(mask(soft_cap(scale * q k^T))) v, as `dense_attention` defines it.

    Args:
      implementation: a key of `IMPLEMENTATIONS`; None for what `chosen` chooses.

    Raises:
      ValueError: an unknown implementation, or one that was asked for what it cannot do.
      ImportError: an implementation whose package is not installed.
    """
    name = chosen(q.shape[1], q.dtype) if implementation is None else implementation
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation: expected one of {', '.join(IMPLEMENTATIONS)}, or None, got {name!r}"
        )
    return IMPLEMENTATIONS[name](
        q,
        k,
        v,
        positions=positions,
        segments=segments,
        window=window,
        softcap=softcap,
        scale=scale,
    )


def chosen(time: int, dtype: DTypeLike) -> str:
    """The implementation of `attention` on this platform, for rows of `time` tokens.

    Short rows are dense: less to compile. Longer ones are blockwise, which takes rows in any order,
    unless there is one device with a kernel of its own, which wants rows in order and gives NaN for
    others: "splash" on a TPU, "tokamax" on a Hopper or Blackwell GPU where it is installed and the
    inputs are 16 bits. Over several devices a kernel would have to be wrapped in `shard_map`, and
    "blockwise" is partitioned by the compiler.
    """
    if time < LONG:
        return "dense"
    if jax.device_count() == 1:
        if jax.default_backend() == "tpu":
            return "splash"
        if dtype in tokamax.DTYPES and tokamax.on_supported_gpu() and tokamax.installed():
            return "tokamax"
    return "blockwise"


def describe() -> str:
    """What `attention` is on this platform, in words, for a record's passport."""
    kinds = {chosen(LONG, dtype): dtype for dtype in (jnp.float32, jnp.bfloat16)}
    names = " or ".join(
        name if len(kinds) == 1 else f"{name} ({jnp.dtype(dtype).name})"
        for name, dtype in kinds.items()
    )
    return f"dense below {LONG} tokens, {names} from there"
