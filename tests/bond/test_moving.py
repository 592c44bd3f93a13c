"""Anchors and N as arguments of one program: equal to the steps that bind them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from matchbook.bond import algorithms, exact, policies
from matchbook.bond.algorithms.arguments import bound

ANCHOR, WEIGHTS = {"a": jnp.zeros(3)}, {"a": jnp.arange(3.0)}
TABLE = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7)), jnp.float32)
PROMPTS = jnp.tile(jnp.arange(2), 8)


@pytest.mark.parametrize(
    ("eta", "period", "same"),
    [(0.3, 1, algorithms.ema(0.3)), (1.0, 3, algorithms.hard(3)), (0.0, 1, algorithms.fixed)],
)
def test_a_moving_anchor_is_smooth_hard_or_fixed(eta, period, same):
    traced = jax.jit(
        lambda eta, period, step: algorithms.moving(eta, period)(ANCHOR, WEIGHTS, step)
    )
    for step in range(1, 7):
        wanted = same(ANCHOR, WEIGHTS, jnp.int32(step))["a"]
        found = traced(jnp.float32(eta), jnp.int32(period), jnp.int32(step))["a"]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_some_of_the_way_every_few_updates():
    update = algorithms.moving(0.5, 2)
    anchor = ANCHOR
    for step in range(1, 5):
        anchor = update(anchor, WEIGHTS, jnp.int32(step))
    np.testing.assert_allclose(anchor["a"], 0.75 * WEIGHTS["a"])


def make_bond(n):
    reward = exact.table_reward(TABLE)
    return algorithms.bond_step(policies.TABULAR, optax.sgd(1.0), reward, n=n, k=6)


def test_a_traced_n_is_the_n_that_is_bound():
    traced = jax.jit(bound(make_bond, n=jnp.float32(3)))
    state = algorithms.policy_state(jnp.zeros((2, 7)), optax.sgd(1.0), seed=1)
    wanted, _ = jax.jit(make_bond(3))(state, PROMPTS)
    found, metrics = traced(state, PROMPTS)
    np.testing.assert_allclose(found.weights, wanted.weights, atol=1e-6)
    assert float(metrics["generations"]) == 7 * len(PROMPTS)
    other, _ = jax.jit(bound(make_bond, n=jnp.float32(5)))(state, PROMPTS)
    assert np.abs(np.asarray(other.weights - wanted.weights)).max() > 0.01
