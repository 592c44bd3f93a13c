"""Attention by the package `tokamax`: its kernel for Hopper and Blackwell GPUs.

Section 2's soft cap and window are arguments of the kernel. Unusual: it masks by place in the
row, so rows have to be in order (`places`); which documents see each other goes in as a matrix of
booleans, time^2 bytes a row, the one thing here that is not linear in time.
"""

import importlib
import importlib.util
from types import ModuleType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from matchbook.gemma.attention.places import only_what_is_asked, require_order

DTYPES = (jnp.bfloat16, jnp.float16)


def tokamax_attention(
    q: Float[Array, "batch time heads head_dim"],
    k: Float[Array, "batch time kv_heads head_dim"],
    v: Float[Array, "batch time kv_heads head_dim"],
    *,
    positions: Int[Array, "batch time"],
    segments: Int[Array, "batch time"],
    window: int | None,
    softcap: int | float | None,
    scale: int | float,
    kernel: str = "mosaic",
) -> Float[Array, "batch time heads head_dim"]:
    """What `dense_attention` computes, for rows in order; others raise, or are NaN under `jit`.

    `kernel` is the package's own name: "mosaic" needs the GPU, "xla" (for tests) runs anywhere.

    Raises:
      ImportError: the package is not installed.
      ValueError: rows not in order; for "mosaic", a device other than a Hopper or Blackwell GPU, or
        float32, which the kernel would round to bfloat16 without a word.
    """
    package = _package()
    if kernel == "mosaic":
        if not on_supported_gpu():
            raise ValueError(
                "attention 'tokamax': expected a Hopper or Blackwell GPU, got "
                f"{jax.devices()[0].device_kind}: take 'blockwise'"
            )
        if q.dtype not in DTYPES:
            raise ValueError(
                f"attention 'tokamax': expected bfloat16 or float16, got {q.dtype}, which its "
                "kernel rounds to bfloat16: cast first, or take 'blockwise'"
            )
    require_order(positions, segments, "tokamax")
    out = package.dot_product_attention(
        q,
        k,
        v,
        # Padding sees padding here, so that no softmax is empty; its output is zeroed below.
        mask=(segments[:, :, None] == segments[:, None, :])[:, None],
        scale=float(scale),
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),  # (before, after)
        logits_soft_cap=None if softcap is None else float(softcap),
        implementation=kernel,
    )
    return only_what_is_asked(out, positions, segments)


def on_supported_gpu() -> bool:
    """Whether the default device has the kernel's instructions: compute capability 9.0 or 10.0."""
    capability = getattr(jax.devices()[0], "compute_capability", "")
    return jax.default_backend() == "gpu" and capability in ("9.0", "10.0")


def installed() -> bool:
    """Whether the package is there; importing it takes seconds, so only looked for."""
    return importlib.util.find_spec("tokamax") is not None


def _package() -> ModuleType:
    try:
        return importlib.import_module("tokamax")
    except ImportError as error:
        raise ImportError(
            "attention 'tokamax' needs the package tokamax: install the extra 'tokamax', "
            "or take 'blockwise'"
        ) from error
