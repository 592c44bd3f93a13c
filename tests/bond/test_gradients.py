"""The paper's gradients against derivatives of the divergences and of brute-force Best-of-N."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from matchbook import divergences
from matchbook.bond import best_of_n, brute_force, gradients

ANSWERS, FEATURES = 6, 3


def problem(seed):
    """A log-linear policy that cannot represent everything, a reference, rewards with ties."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((ANSWERS, FEATURES))
    reference = log_softmax(rng.standard_normal(ANSWERS))
    rewards = rng.integers(0, 4, ANSWERS)
    return features, reference, rewards, rng.standard_normal(FEATURES)


def slope(function, parameters, step=1e-5):
    """Central differences."""
    bumps = step * np.eye(parameters.size)
    return np.array(
        [(function(parameters + b) - function(parameters - b)) / (2 * step) for b in bumps]
    )


def scores_of(features, parameters):
    policy = np.exp(log_softmax(features @ parameters))
    return features - policy @ features


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_against_finite_differences_of_brute_force(seed, n):
    features, reference, rewards, parameters = problem(seed)
    best = brute_force.pmf(np.exp(reference), rewards, n)

    def policy_at(parameters):
        return np.exp(log_softmax(features @ parameters))

    forward = slope(lambda p: rel_entr(best, policy_at(p)).sum(), parameters)
    backward = slope(lambda p: rel_entr(policy_at(p), best).sum(), parameters)
    to_anchor = slope(lambda p: rel_entr(policy_at(p), np.exp(reference)).sum(), parameters)
    with jax.enable_x64(True):
        scores = jnp.asarray(scores_of(features, parameters))
        policy = jnp.log(policy_at(parameters))
        anchor, ranks = jnp.asarray(reference), jnp.asarray(rewards)
        np.testing.assert_allclose(gradients.forward(scores, anchor, ranks, n), forward, atol=1e-8)
        np.testing.assert_allclose(
            gradients.backward(scores, policy, anchor, ranks, n), backward, atol=1e-8
        )
        np.testing.assert_allclose(
            gradients.regularisation(scores, policy, anchor), to_anchor, atol=1e-8
        )
        # The printed sign is wrong: not merely different from the right one, but its opposite.
        printed = np.asarray(gradients.printed_regularisation(scores, policy, anchor))
        np.testing.assert_allclose(printed, -to_anchor, atol=1e-8)
        assert np.abs(printed - to_anchor).max() > 0.05


def test_a_step_along_the_printed_sign_leaves_the_anchor():
    features, reference, _, parameters = problem(7)

    def distance(parameters):
        policy = np.exp(log_softmax(features @ parameters))
        return rel_entr(policy, np.exp(reference)).sum()

    with jax.enable_x64(True):
        arguments = (
            jnp.asarray(scores_of(features, parameters)),
            jnp.asarray(log_softmax(features @ parameters)),
            jnp.asarray(reference),
        )
        right = np.asarray(gradients.regularisation(*arguments))
        printed = np.asarray(gradients.printed_regularisation(*arguments))
    assert distance(parameters - 0.01 * right) < distance(parameters)
    assert distance(parameters - 0.01 * printed) > distance(parameters)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_best_of_n_is_where_jeffreys_ends_for_every_beta(beta):
    _, reference, rewards, _ = problem(8)
    with jax.enable_x64(True):
        reference, rewards = jnp.asarray(reference), jnp.asarray(rewards)
        target = best_of_n.log_pmf(reference, rewards, 4)

        def loss(logits):
            return divergences.jeffreys(target, jax.nn.log_softmax(logits), beta=beta)

        value, gradient = jax.value_and_grad(loss)(target)
        assert value == 0
        np.testing.assert_allclose(gradient, 0, atol=1e-15)
        for seed in range(20):
            assert loss(target + np.random.default_rng(seed).standard_normal(ANSWERS)) > 0
        # The two terms of the trainer, in the paper's mix, are the derivative of that loss.
        policy = jax.nn.log_softmax(reference * 0.5)
        scores = jnp.eye(ANSWERS) - jnp.exp(policy)[None]
        mixed = (1 - beta) * gradients.forward(scores, reference, rewards, 4)
        mixed += beta * gradients.backward(scores, policy, reference, rewards, 4)
        np.testing.assert_allclose(mixed, jax.grad(loss)(policy), atol=1e-13)
