"""Computing in bfloat16 with float32 weights: close to float32, and small updates are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from matchbook import distill
from matchbook.corpus import Rows
from matchbook.distill.models import head
from matchbook.gemma import Gemma2Config

CONFIG = Gemma2Config(
    vocab_size=31,
    embed_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=32,
    sliding_window=8,
)


def batch(seed):
    """Rows that count upwards from a random token: easily learned, from a loss of log(31)."""
    starts = np.random.default_rng(seed).integers(0, 31, (8, 1))
    tokens = ((starts + np.arange(16)) % 31).astype(np.int32)
    positions = np.tile(np.arange(16, dtype=np.int32), (8, 1))
    return Rows(*map(jnp.asarray, (tokens, positions, np.ones_like(tokens))))


def makers(graph, optimizer, teacher):
    return {
        "scratch": distill.pretrain_step(graph, optimizer),
        "distilled": distill.distill_step(graph, optimizer, teacher),
    }


@pytest.mark.parametrize("arm", ["scratch", "distilled"])
def test_it_stays_close_to_float32_and_masters_stay_float32(arm):
    curves = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        graph, weights = distill.new_model(CONFIG, seed=0, dtype=dtype)
        teacher = distill.frozen_teacher(graph, distill.new_model(CONFIG, seed=7)[1])
        optimizer = distill.adamw(1e-2, 60)
        step = jax.jit(makers(graph, optimizer, teacher)[arm])
        state, losses = distill.train_state(weights, optimizer), []
        assert head(graph, weights, batch(0)).hidden.dtype == dtype
        for seed in range(60):
            state, metrics = step(state, batch(seed))
            losses.append(float(metrics["loss"]))
        curves[dtype] = np.array(losses)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert kinds <= {jnp.dtype("float32"), jnp.dtype("int32")}
    full, mixed = curves.values()
    assert full[0] - full[-10:].mean() > 0.02  # it has learned
    learned = full[0] - full[-10:].mean()
    np.testing.assert_allclose(mixed[:5], full[:5], rtol=0.01)
    assert abs(mixed[-10:].mean() - full[-10:].mean()) < 0.1 * learned
    assert (mixed != full).any()


def test_an_update_that_bfloat16_would_lose_is_kept():
    graph, weights = distill.new_model(CONFIG, seed=0, dtype=jnp.bfloat16)
    # 1 / 1000 of each weight, where bfloat16 has steps of 1 / 256 to 1 / 128.
    tiny = optax.stateless(lambda _, weights: jax.tree.map(lambda w: 1e-3 * w, weights))
    state = distill.train_state(weights, tiny)
    step = jax.jit(distill.pretrain_step(graph, tiny))
    for seed in range(10):
        state, _ = step(state, batch(seed))
    table = np.asarray(weights["embedder"]["table"])
    np.testing.assert_allclose(state.weights["embedder"]["table"], table * 1.001**10, rtol=1e-5)
    low = jnp.asarray(table, jnp.bfloat16)
    for _ in range(10):
        low = low + jnp.asarray(1e-3 * low.astype(jnp.float32), jnp.bfloat16)
    np.testing.assert_array_equal(low, jnp.asarray(table, jnp.bfloat16))  # nothing has moved


def test_weights_that_are_not_float32_are_refused():
    _, weights = distill.new_model(CONFIG, seed=0)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights)
    for make in (distill.train_state, lambda w, o: distill.on_policy_state(w, o, 0)):
        with pytest.raises(ValueError, match=r"expected float32, .* got bfloat16"):
            make(low, optax.sgd(1.0))
