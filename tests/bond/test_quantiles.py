"""Exact quantiles against counting, and the estimates' exact means against simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.bond import quantile_estimates
from matchbook.bond.quantiles import log_masses, log_quantiles, quantiles


@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_quantiles_by_counting(levels):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(40), size=6)
    rewards = rng.integers(-levels, levels, size=(6, 40)) / 4
    less = np.einsum("cab,cb->ca", rewards[:, :, None] > rewards[:, None, :], probs)
    less_equal = np.einsum("cab,cb->ca", rewards[:, :, None] >= rewards[:, None, :], probs)
    with jax.enable_x64(True):
        got = quantiles(jnp.log(probs), jnp.asarray(rewards))
        np.testing.assert_allclose(got.less, less, atol=1e-14)
        np.testing.assert_allclose(got.less_equal, less_equal, atol=1e-14)
        masses = log_masses(jnp.log(probs), jnp.asarray(rewards))
        np.testing.assert_allclose(sum(jnp.exp(m) for m in masses), 1, atol=1e-14)
        np.testing.assert_allclose(jnp.exp(masses.tied), less_equal - less, atol=1e-14)


def test_both_tails_keep_their_relative_precision():
    # The best answer but one is beaten with probability 1e-30: log p_<= is -1e-30, not 0 or -1e-7.
    log_probs = jnp.array([-69.0, -0.7, -0.7, -69.077553], jnp.float32)
    got = log_quantiles(log_probs, jnp.arange(4))
    assert got.less_equal[2] == pytest.approx(-np.exp(-69.077553) / (2 * np.exp(-0.7)), rel=1e-4)
    assert got.less[1] == pytest.approx(-69.0 - np.log(2 * np.exp(-0.7)), rel=1e-6)
    assert got.less[0] == -jnp.inf
    assert got.less_equal[3] == 0


def test_minus_zero_ties_with_zero_and_infinite_rewards_have_their_place():
    rewards = jnp.array([0.0, -0.0, -jnp.inf, jnp.inf])
    got = quantiles(jnp.log(jnp.full(4, 0.25)), rewards)
    np.testing.assert_allclose(got.less_equal, [0.75, 0.75, 0.25, 1.0], rtol=1e-6)
    np.testing.assert_allclose(got.less, [0.25, 0.25, 0.0, 0.75], rtol=1e-6)


def test_a_reward_that_is_no_number_spoils_its_example_only():
    rewards = jnp.array([[0.0, 1.0, jnp.nan], [0.0, 1.0, 2.0]])
    got = quantiles(jnp.zeros((2, 3)), rewards).less_equal
    assert bool(jnp.isnan(got[0]).all())
    np.testing.assert_allclose(got[1], [1 / 3, 2 / 3, 1], rtol=1e-6)


@pytest.mark.parametrize("rule", ["floor", "plus-one"])
@pytest.mark.parametrize(("k", "p"), [(16, 0.05), (16, 0.25), (2, 0.1), (32, 0.9)])
def test_mean_log_estimate_equals_simulation(rule, k, p):
    rng = np.random.default_rng(1)
    counts = (rng.random((400_000, k)) < p).sum(axis=1)
    draws = quantile_estimates.log_estimate(counts, k, rule)
    exact = quantile_estimates.mean_log_estimate(p, k, rule)
    assert abs(draws.mean() - exact) < 4 * draws.std() / np.sqrt(draws.size)
    zero = quantile_estimates.probability_of_zero(p, k)
    assert (counts == 0).mean() == pytest.approx(zero, abs=4e-3)


def test_estimates_agree_with_the_truth_for_many_samples():
    p = np.array([0.2, 0.5, 0.9])
    for rule in ("floor", "plus-one"):
        got = quantile_estimates.mean_log_estimate(p, 5000, rule)
        np.testing.assert_allclose(got, np.log(p), atol=1e-3)


def test_an_estimate_needs_a_known_rule():
    with pytest.raises(ValueError, match="'floor' or 'plus-one'"):
        quantile_estimates.log_estimate.__wrapped__(0, 2, "clip")
