"""The parts of a layer against closed forms written in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from matchbook.gemma import Gemma2Config
from matchbook.gemma.layers import (
    Embedder,
    GatedMLP,
    RMSNorm,
    apply_rope,
    embedding_scale,
    rope_rotation,
    soft_cap,
)

CONFIG = Gemma2Config(
    vocab_size=50, embed_dim=12, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=20
)
FLOAT32 = {"dtype": jnp.float32, "param_dtype": jnp.float32}


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("cap", [30.0, 50.0, 50])
def test_soft_cap_is_the_identity_near_zero_and_never_passes_the_cap(cap):
    small = jnp.asarray([-0.1, 0.0, 1e-3, 0.1])
    np.testing.assert_allclose(soft_cap(small, cap), small, rtol=1e-5)
    assert jax.grad(soft_cap)(0.0, cap) == 1.0
    huge = soft_cap(jnp.asarray([-1e30, -3 * cap, 3 * cap, 1e30]), cap)
    assert (jnp.abs(huge) <= cap).all()
    np.testing.assert_allclose(huge[jnp.asarray([0, 3])], [-cap, cap])
    x = 3.0 * cap * np.tanh(normal(0, 100))
    slope = jax.vmap(jax.grad(lambda x: soft_cap(x, cap)))(jnp.asarray(x))
    np.testing.assert_allclose(slope, 1 - np.tanh(x / cap) ** 2, atol=1e-6)


def test_no_cap_changes_nothing():
    x = jnp.asarray([-1e30, 2.0])
    assert (soft_cap(x, None) == x).all()


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm(eps):
    x, scale = 3.0 * normal(0, 4, 5, 12), normal(1, 12)
    norm = RMSNorm(12, eps=eps, param_dtype=jnp.float32)
    plain = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + eps)
    np.testing.assert_allclose(norm(jnp.asarray(x)), plain, rtol=1e-6)  # scale 0 stands for 1
    norm.scale[...] = jnp.asarray(scale)
    np.testing.assert_allclose(norm(jnp.asarray(x)), plain * (1 + scale), rtol=1e-5, atol=1e-6)


def test_rms_norm_works_in_float32_inside_bfloat16():
    """One rounding, at the end: equal to the float64 answer rounded once."""
    x = jnp.asarray(100 * normal(0, 64, 256), jnp.bfloat16)
    scale = jnp.asarray(normal(1, 256), jnp.bfloat16)
    norm = RMSNorm(256, eps=1e-6, param_dtype=jnp.bfloat16)
    norm.scale[...] = scale
    wide, wide_scale = np.asarray(x, np.float64), np.asarray(scale, np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * (1 + wide_scale)
    ours = norm(x)
    assert ours.dtype == jnp.bfloat16
    same = np.asarray(ours) == np.asarray(jnp.asarray(expected, jnp.bfloat16))
    assert same.mean() > 0.999  # the rest lies on the edge between two bfloat16 numbers


@pytest.mark.parametrize(("head_dim", "base"), [(8, 10_000.0), (6, 100), (2, 10_000.0)])
def test_rope_is_a_rotation_of_complex_numbers(head_dim, base):
    """Coordinate j and j + head_dim/2 are one complex number, turned by p / base^(2j/head_dim)."""
    x, positions = normal(0, 2, 7, 3, head_dim), np.arange(14).reshape(2, 7) * 5
    half = head_dim // 2
    rates = np.array([base ** (-2 * j / head_dim) for j in range(half)])
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(
        1j * positions[:, :, None, None] * rates[None, None, None, :]
    )
    rotation = rope_rotation(jnp.asarray(positions), head_dim, base)
    ours = apply_rope(jnp.asarray(x), rotation)
    np.testing.assert_allclose(ours, np.concatenate([turned.real, turned.imag], -1), atol=2e-5)


def test_rope_scores_depend_on_distance_alone():
    q, k = jnp.asarray(normal(0, 1, 1, 1, 8)), jnp.asarray(normal(1, 1, 1, 1, 8))

    def score(query_position, key_position):
        at = [jnp.full((1, 1), p, jnp.int32) for p in (query_position, key_position)]
        turned_q = apply_rope(q, rope_rotation(at[0], 8, 10_000.0))
        turned_k = apply_rope(k, rope_rotation(at[1], 8, 10_000.0))
        return float(jnp.sum(turned_q * turned_k))

    np.testing.assert_allclose(score(0, 0), float(jnp.sum(q * k)), rtol=1e-6)
    for distance in (0, 1, 6):
        scores = [score(start + distance, start) for start in (0, 3, 500)]
        np.testing.assert_allclose(scores, scores[0], atol=1e-4)
    assert abs(score(1, 0) - score(0, 1)) > 0.1  # direction matters


def test_gated_mlp():
    mlp = GatedMLP(CONFIG, rngs=nnx.Rngs(0), **FLOAT32)
    x = 3.0 * normal(0, 2, 3, 12)
    gate, up, down = (np.asarray(w[...], np.float64) for w in (mlp.gate, mlp.up, mlp.down))
    assert gate.shape == up.shape == down.T.shape == (12, 20)
    z = x @ gate
    gelu = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    np.testing.assert_allclose(mlp(jnp.asarray(x)), (gelu * (x @ up)) @ down, atol=1e-5)


def test_embedding_scale_is_rounded_to_bfloat16():
    assert [float(embedding_scale(d, jnp.bfloat16)) for d in (2304, 3584, 4608)] == [48, 59.75, 68]
    assert float(embedding_scale(3584, jnp.float32)) == np.float32(np.sqrt(3584))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_embedder_encodes_and_decodes_with_one_table(dtype):
    embedder = Embedder(CONFIG, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=jnp.float32)
    assert [tuple(leaf.shape) for leaf in jax.tree.leaves(nnx.state(embedder))] == [(50, 12)]
    table = embedder.table[...].astype(dtype)
    tokens = jnp.asarray([[3, 49, 3]])
    ours = embedder.encode(tokens)
    assert ours.dtype == dtype
    assert (ours == table[tokens] * jnp.asarray(12**0.5, dtype)).all()

    hidden = jnp.asarray(20 * normal(1, 2, 3, 12), dtype)
    logits = embedder.decode(hidden)
    assert logits.dtype == jnp.float32
    products = np.asarray(hidden, np.float64) @ np.asarray(table, np.float64).T
    assert np.abs(products).max() > 30
    np.testing.assert_allclose(logits, 30 * np.tanh(products / 30), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(embedder.decode(hidden[0, 1]), logits[0, 1], rtol=1e-5)


def test_tokens_outside_the_table_are_not_another_token():
    embedder = Embedder(CONFIG, rngs=nnx.Rngs(0), **FLOAT32)
    rows = embedder.encode(jnp.asarray([[50, -1, 49, -100]]))
    assert np.isnan(rows).all(-1).tolist() == [[True, True, False, True]]
