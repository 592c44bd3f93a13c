"""Reward at equal KL: interpolation by hand, both lines against other ways to compute them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from matchbook.bond import frontier

RNG = np.random.default_rng(0)
REFERENCE = jax.nn.log_softmax(jnp.asarray(RNG.standard_normal((2, 6)), jnp.float32))
REWARDS = jnp.asarray(RNG.standard_normal((2, 6)), jnp.float32)


def test_value_at_a_kl():
    kl, reward = [0.0, 0.4, 0.3, 1.0], [0.0, 2.0, 5.0, 4.0]
    assert frontier.at_kl(kl, reward, 0.1) == pytest.approx(1.0)  # half way, in roots
    assert frontier.at_kl(kl, reward, 0.4) == 2.0  # the first time it is there
    share = (0.65**0.5 - 0.3**0.5) / (1 - 0.3**0.5)
    assert frontier.at_kl(kl, reward, 0.65) == pytest.approx(5 - share)
    assert frontier.at_kl(kl, reward, 0.0) == 0.0
    assert np.isnan(frontier.at_kl(kl, reward, 1.1))
    assert np.isnan(frontier.at_kl([0.2, 1.0], [0, 1], 0.1))
    with pytest.raises(ValueError, match="one length"):
        frontier.at_kl(kl, reward[:2], 0.1)


def test_best_of_n_line_against_the_power_of_a_distribution_function():
    line = frontier.best_of_n_line(REFERENCE, REWARDS, np.array([1, 2.5, 8]))
    for place, n in enumerate((1, 2.5, 8)):
        kl, reward, log_quantile = [], [], []
        for log_probs, rewards in zip(*(np.asarray(x, float) for x in (REFERENCE, REWARDS))):
            order = np.argsort(rewards)
            below = np.concatenate([[0], np.cumsum(np.exp(log_probs)[order])])
            best = np.diff(below**n)
            kl.append(best @ (np.log(best) - log_probs[order]))
            reward.append(best @ rewards[order])
            log_quantile.append(best @ np.log(below[1:]))
        found = [curve[place] for curve in line]
        wanted = np.mean(kl), np.mean(reward), np.mean(log_quantile)
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_nothing_lies_above_the_rlhf_line():
    """A general optimiser of reward at the same KL, both means over the prompts, gets no higher."""
    line = frontier.rlhf_line(REFERENCE, REWARDS, np.array([0.7]))
    reference, rewards = np.asarray(REFERENCE, float), np.asarray(REWARDS, float)

    def policy(logits):
        logits = logits.reshape(2, 6)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def kl(logits):
        p = policy(logits)
        return np.sum(np.exp(p) * (p - reference)) / 2

    found = minimize(
        lambda logits: -np.sum(np.exp(policy(logits)) * rewards) / 2,
        (reference + 0.3 * RNG.standard_normal((2, 6))).ravel(),
        constraints={"type": "ineq", "fun": lambda logits: line.kl[0] - kl(logits)},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    assert found.success
    assert -found.fun == pytest.approx(line.reward[0], abs=2e-5)
    best_of_n = frontier.best_of_n_line(REFERENCE, REWARDS, np.linspace(1, 6, 200))
    assert frontier.at_kl(best_of_n.kl, best_of_n.reward, line.kl[0]) < line.reward[0]
