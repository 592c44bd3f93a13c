"""Settings as arguments of one program; BOND with quantiles that are given."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import log_softmax

from matchbook import lab
from matchbook.bond import algorithms, exact, policies

ANSWERS, PROMPTS = 6, jnp.tile(jnp.arange(2), 8)
RNG = np.random.default_rng(1)
TABLE = jnp.asarray(RNG.standard_normal((2, ANSWERS)), jnp.float32)
REFERENCE = jax.nn.log_softmax(jnp.asarray(RNG.standard_normal((2, ANSWERS)), jnp.float32))
REWARD = exact.table_reward(TABLE)
OPTIMIZER = algorithms.adam(0.1, 0)
TRACES = []


def reinforce(table, beta_rl):
    TRACES.append(beta_rl)
    reward = exact.table_reward(table)
    return algorithms.reinforce_step(policies.TABULAR, OPTIMIZER, reward, beta_rl=beta_rl)


def jbond(table, gamma):
    reward, anchor = exact.table_reward(table), algorithms.ema(0.1)
    return algorithms.jbond_step(policies.TABULAR, OPTIMIZER, reward, anchor, gamma=gamma)


def rated(table, rate):
    optimizer = algorithms.adam(rate, 4)
    reward, anchor = exact.table_reward(table), algorithms.ema(0.1)
    return algorithms.jbond_step(policies.TABULAR, optimizer, reward, anchor)


@jax.jit
def advanced(step, state):
    return step(state, PROMPTS)[0]


def trained(step, optimizer=OPTIMIZER):
    state = algorithms.policy_state(REFERENCE, optimizer, seed=0)
    step = step if isinstance(step, Partial) else Partial(step)
    for _ in range(4):
        state = advanced(step, state)
    return state.weights


@pytest.mark.parametrize(("make", "name"), [(reinforce, "beta_rl"), (jbond, "gamma")])
def test_a_bound_argument_trains_as_a_constant_does(make, name):
    for value in (0.0, 0.5):
        bound = algorithms.bound(make, table=TABLE, **{name: jnp.float32(value)})
        np.testing.assert_allclose(
            trained(bound), trained(make(TABLE, **{name: value})), rtol=1e-5, atol=1e-6
        )


def test_a_learning_rate_may_be_an_argument_too():
    for rate in (0.03, 0.2):
        bound = algorithms.bound(rated, table=TABLE, rate=jnp.float32(rate))
        optimizer = algorithms.adam(rate, 4)
        np.testing.assert_allclose(
            trained(bound, optimizer),
            trained(rated(TABLE, rate), optimizer),
            rtol=1e-4,
            atol=1e-6,
        )


def test_a_sweep_is_traced_once_in_the_loop():
    state = algorithms.policy_state(REFERENCE, OPTIMIZER, seed=0)
    for place, value in enumerate((0.2, 0.3, 0.4)):
        step = algorithms.bound(reinforce, table=TABLE + value, beta_rl=jnp.float32(value))
        lab.fit(step, state, itertools.repeat(PROMPTS), num_steps=2)
        before = len(TRACES) if place == 0 else before
    assert len(TRACES) == before


def test_a_negative_gamma_is_the_printed_sign():
    printed = algorithms.jbond_step(
        policies.TABULAR,
        OPTIMIZER,
        REWARD,
        algorithms.ema(0.1),
        gamma=0.5,
        printed_sign=True,
    )
    found = trained(algorithms.bound(jbond, table=TABLE, gamma=jnp.float32(-0.5)))
    np.testing.assert_allclose(found, trained(printed), rtol=1e-5, atol=1e-6)


def test_given_quantiles_have_the_gradient_of_what_is_given():
    """Backward term alone, by enumeration: -E[score * ((n - 1) given - log-ratio)], any `given`."""
    n, given = 3, RNG.standard_normal((2, ANSWERS))
    weights = RNG.standard_normal((2, ANSWERS))
    step = algorithms.given_quantiles_step(
        policies.TABULAR,
        algorithms.DESCENT,
        REWARD,
        exact.table_reward(jnp.asarray(given, jnp.float32)),
        n=n,
        beta=1,
    )
    state = algorithms.policy_state(REFERENCE, algorithms.DESCENT, seed=0)
    state = state._replace(weights=jnp.asarray(weights, jnp.float32))

    def run(state):
        return algorithms.gradient_statistics(step, state, jnp.arange(2), 20_000)

    found = jax.jit(run)(state)
    policy = log_softmax(weights, axis=1)
    returns = (n - 1) * given - (policy - np.asarray(REFERENCE, float))
    probs = np.exp(policy)
    wanted = -probs * (returns - (probs * returns).sum(1, keepdims=True)) / 2
    z = np.asarray(found.z_scores(jnp.asarray(wanted, jnp.float32)))
    assert np.abs(z).max() < 4, z
    assert np.linalg.norm(wanted / np.asarray(found.standard_error)) > 30
    with pytest.raises(ValueError, match="n:"):
        algorithms.given_quantiles_step(policies.TABULAR, OPTIMIZER, REWARD, REWARD, n=1)
