"""The log-linear toy: its optima against moment matching and brute force, its numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.bond import log_linear

SPACE = log_linear.random_space(0, prompts=3, answers=12, features=4)
BETAS = jnp.array([0.0, 0.3, 0.6, 1.0])
N = jnp.float32(4)


@pytest.fixture(scope="module")
def optima():
    return log_linear.optima(SPACE, N, BETAS)


def log_probs(space, weights):
    logits = np.asarray(space.base, float) + np.asarray(space.features, float) @ weights
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def best_of_n(space, n):
    """By sorting, in float64: the power of a distribution function."""
    reference, rewards = np.exp(log_probs(space, np.zeros(4))), np.asarray(space.rewards)
    best = np.zeros_like(reference)
    for row, (p, r) in enumerate(zip(reference, rewards)):
        order = np.argsort(r)
        best[row, order] = np.diff(np.concatenate([[0.0], np.cumsum(p[order])]) ** n)
    return best


def divergences(space, weights, n):
    policy, best = log_probs(space, np.asarray(weights, float)), best_of_n(space, n)
    forward = np.mean(np.sum(best * (np.log(best) - policy), axis=1))
    return forward, np.mean(np.sum(np.exp(policy) * (policy - np.log(best)), axis=1))


def test_forward_kl_is_least_where_the_features_have_the_winners_mean(optima):
    """Moment matching: the optimum of an exponential family, no divergence computed."""
    features = np.asarray(SPACE.features, float)
    policy = np.exp(log_probs(SPACE, np.asarray(optima[0], float)))
    wanted = np.einsum("pa,paf->f", best_of_n(SPACE, 4), features)
    np.testing.assert_allclose(np.einsum("pa,paf->f", policy, features), wanted, atol=2e-3)


def test_no_step_in_any_direction_betters_an_optimum(optima):
    rng = np.random.default_rng(1)
    for beta, weights in zip(np.asarray(BETAS, float), np.asarray(optima, float)):
        least = np.dot([1 - beta, beta], divergences(SPACE, weights, 4))
        for step in 0.05 * rng.standard_normal((40, 4)):
            assert np.dot([1 - beta, beta], divergences(SPACE, weights + step, 4)) > least - 1e-5


def test_optima_are_a_frontier(optima):
    forward, backward = np.transpose([divergences(SPACE, w, 4) for w in optima])
    assert np.all(np.diff(forward) > 0)
    assert np.all(np.diff(backward) < 0)


def test_numbers_of_a_policy(optima):
    found = SPACE.numbers(optima[1], N)
    forward, backward = divergences(SPACE, optima[1], 4)
    assert float(found["exact_forward_kl"]) == pytest.approx(forward, rel=1e-4)
    assert float(found["exact_backward_kl"]) == pytest.approx(backward, rel=1e-4)
    at_start = SPACE.numbers(jnp.zeros(4), N)
    assert float(at_start["exact_kl_to_reference"]) == pytest.approx(0, abs=1e-6)


def test_a_family_with_a_weight_for_each_answer_arrives():
    free = SPACE._replace(
        base=SPACE.base[:1],
        rewards=SPACE.rewards[:1],
        features=jnp.eye(12, dtype=jnp.float32)[None],
    )
    weights = log_linear.optima(free, N, jnp.array([0.5]))[0]
    found = jax.device_get(free.numbers(weights, N))
    assert found["exact_forward_kl"] < 2e-3
    assert found["exact_backward_kl"] < 2e-3


def test_rewards_are_skill_and_luck():
    rewards = np.asarray(SPACE.rewards)
    np.testing.assert_allclose(rewards.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(rewards.std(1), 1, atol=1e-5)
    skilful = log_linear.random_space(0, prompts=4, answers=60, features=3, luck=0.0)
    features, rewards = np.asarray(skilful.features, float), np.asarray(skilful.rewards, float)
    for phi, r in zip(features, rewards):
        design = np.concatenate([phi, np.ones((60, 1))], axis=1)
        assert np.abs(r - design @ np.linalg.lstsq(design, r, rcond=None)[0]).max() < 1e-4
