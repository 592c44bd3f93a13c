"""The paper's settings of J-BOND: the same step as with every number written out."""

import jax
import jax.numpy as jnp
import numpy as np

from matchbook.bond import algorithms, exact, policies
from matchbook.bond.algorithms import published

REWARD = exact.table_reward(jnp.arange(8.0).reshape(2, 4))


def trained(step, optimizer):
    state = algorithms.policy_state(jnp.zeros((2, 4)), optimizer, seed=3)
    prompts = jnp.arange(published.BATCH) % 2
    for _ in range(3):
        state, _ = jax.jit(step)(state, prompts)
    return state


def test_section_6_written_out():
    adam = algorithms.adam(3e-6, 100)
    anchor = algorithms.ema(0.02)
    out = algorithms.jbond_step(policies.TABULAR, adam, REWARD, anchor, beta=0.5, gamma=0.0)
    expected = trained(out, adam)
    found = trained(published.jbond_step(policies.TABULAR, REWARD), published.adam())
    assert np.abs(found.weights).max() > 0
    np.testing.assert_array_equal(found.weights, expected.weights)
    np.testing.assert_array_equal(found.anchor, expected.anchor)


def test_the_pull_can_be_chosen():
    step = published.jbond_step(policies.TABULAR, REWARD, gamma=2.0)
    far = jnp.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    state = algorithms.policy_state(far, published.adam(), seed=0)._replace(
        anchor=jnp.zeros((2, 4))
    )
    pulled, free = (
        jax.jit(one)(state, jnp.arange(published.BATCH) % 2)[0]
        for one in (step, published.jbond_step(policies.TABULAR, REWARD))
    )
    assert np.any(np.asarray(pulled.weights) != np.asarray(free.weights))
