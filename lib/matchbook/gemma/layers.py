"""The parts of a Gemma 2 layer other than attention (section 2 of the report).

Unusual: norm scales are stored around zero and act as 1 + scale; embeddings are multiplied by
sqrt(embed_dim) rounded to the activation dtype *before* the product; norms run in float32.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from matchbook.gemma.config import Gemma2Config


def soft_cap(x: Float[Array, "..."], cap: int | float | None) -> Float[Array, "..."]:
    """cap * tanh(x / cap): the identity near 0, never beyond +-cap. No cap where `cap` is None."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def embedding_scale(embed_dim: int, dtype: DTypeLike) -> Float[Array, ""]:
    """sqrt(embed_dim) in the activation dtype; in bfloat16 48, 59.75 and 68 for 2B, 9B and 27B."""
    return jnp.asarray(math.sqrt(embed_dim), dtype)


def fan_in_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int, dtype: DTypeLike
) -> Float[Array, "..."]:
    """Normal weights of variance 1 / fan_in, so that products keep the scale of their input.

    The report does not give its initialisation. At 2B this is a standard deviation of 0.021 for
    what reads the residual stream and 0.010 for what reads the MLP; public code has 0.02 or 0.01
    for everything, with which models of width 64 learn far more slowly.
    """
    flat = _standard_normal(key, math.prod(shape)) * jnp.float32(fan_in**-0.5)
    return flat.reshape(shape).astype(dtype)


@partial(jax.jit, static_argnums=1)
def _standard_normal(key: PRNGKeyArray, size: int) -> Float[Array, " size"]:
    """Drawn flat: XLA compiles a generator for every shape, 0.3 s each, and these share theirs."""
    return jax.random.normal(key, (size,), jnp.float32)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * (1 + scale), in float32, returned in the dtype of x.

    Like all parts of a layer it can hold weights for a `stack` of layers: they get these leading
    dimensions, and the model calls it on one layer's slice of them.
    """

    def __init__(
        self, dim: int, *, eps: int | float, param_dtype: DTypeLike, stack: tuple[int, ...] = ()
    ):
        self.eps = eps
        self.scale = nnx.Param(jnp.zeros((*stack, dim), param_dtype))

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        wide = x.astype(jnp.float32)
        inverse_rms = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.eps)
        scale = 1.0 + self.scale[...].astype(jnp.float32)
        return (wide * inverse_rms * jnp.broadcast_to(scale, wide.shape)).astype(x.dtype)


class NoNorm(nnx.Module):
    """The identity, where an ablation leaves a norm out; see `Gemma2Config.post_norm`."""

    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        return x


type Rotation = tuple[Float[Array, "batch time half"], Float[Array, "batch time half"]]
"""Cosine and sine of the rotary angle of each position and each pair of head coordinates."""


def rope_rotation(
    positions: Int[Array, "batch time"], head_dim: int, base: int | float
) -> Rotation:
    """Rotary embedding of each position: angle j is positions / base^(2j / head_dim), in float32.

    Computed once per forward pass: all layers, local and global, share base and angles.
    """
    frequencies = base ** -(np.arange(0, head_dim, 2) / head_dim)
    angles = positions[..., None].astype(jnp.float32)
    angles = angles * jnp.asarray(frequencies, jnp.float32)[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(
    x: Float[Array, "batch time heads head_dim"], rotation: Rotation
) -> Float[Array, "batch time heads head_dim"]:
    """Turns (x[j], x[j + head_dim/2]) by angle j: the split-half layout. In float32, cast back."""
    cos, sin = (part[:, :, None, :] for part in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def project(
    x: Float[Array, "batch time inner"], weights: Float[Array, "..."], dtype: DTypeLike
) -> Float[Array, "batch time outer"]:
    """x times `weights` [inner, ...outer dimensions, flattened], as one two-dimensional product.

    XLA's CPU backend runs products of two matrices at full rate and einsums over split heads at
    half of it in the backward pass, so heads and head size are flattened here and split later.
    """
    batch, time, inner = x.shape
    matrix = weights.astype(dtype).reshape(inner, -1)
    return (x.reshape(batch * time, inner) @ matrix).reshape(batch, time, matrix.shape[1])


class Embedder(nnx.Module):
    """One table for both ends: rows for tokens, and, transposed, the output projection (tied)."""

    def __init__(
        self, config: Gemma2Config, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike
    ):
        shape = (config.vocab_size, config.embed_dim)
        self.dtype = dtype
        self.final_softcap = config.final_softcap
        self.table = nnx.Param(fan_in_normal(rngs.params(), shape, config.embed_dim, param_dtype))

    def encode(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time embed"]:
        """Rows of the table times sqrt(embed_dim); a token outside the table becomes NaN."""
        rows = (
            self.table[...]
            .at[tokens]
            .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        )
        return rows.astype(self.dtype) * embedding_scale(rows.shape[-1], self.dtype)

    def decode(self, hidden: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
        """Soft-capped float32 logits. The sqrt(embed_dim) of `encode` plays no part here."""
        table = self.table[...].astype(self.dtype)
        rows = hidden.astype(self.dtype).reshape(-1, hidden.shape[-1])
        logits = jnp.einsum("nd,vd->nv", rows, table, preferred_element_type=jnp.float32)
        return soft_cap(logits, self.final_softcap).reshape(*hidden.shape[:-1], table.shape[0])


class GatedMLP(nnx.Module):
    """GeGLU: down(gelu(gate(x)) * up(x)), with the tanh approximation of gelu and no biases."""

    def __init__(
        self,
        config: Gemma2Config,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        stack: tuple[int, ...] = (),
    ):
        def weights(fan_in: int, fan_out: int) -> nnx.Param:
            shape = (*stack, fan_in, fan_out)
            return nnx.Param(fan_in_normal(rngs.params(), shape, fan_in, param_dtype))

        self.dtype = dtype
        self.gate = weights(config.embed_dim, config.mlp_dim)
        self.up = weights(config.embed_dim, config.mlp_dim)
        self.down = weights(config.mlp_dim, config.embed_dim)

    def __call__(self, x: Float[Array, "batch time embed"]) -> Float[Array, "batch time embed"]:
        gate = jax.nn.gelu(project(x, self.gate[...], self.dtype), approximate=True)
        return project(gate * project(x, self.up[...], self.dtype), self.down[...], self.dtype)
