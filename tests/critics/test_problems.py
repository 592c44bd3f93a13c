"""Each closed-form problem against simulation, and against its own Bellman equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from matchbook.critics import problems

EACH = pytest.mark.parametrize("problem", problems.all_problems(), ids=lambda p: p.name)


def from_law(law, values):
    return np.asarray(law.cdf(jnp.asarray(values, jnp.float32)), np.float64)


def largest_gap(draws, law):
    """sup |empirical cdf - F|, with right limits at both, so that atoms do no harm."""
    places, counts = np.unique(draws.astype(np.float32), return_counts=True)
    return np.abs(np.cumsum(counts) / len(draws) - from_law(law, places)).max()


def test_simulated_returns_follow_the_laws():
    """2,048 episodes; the Kolmogorov-Smirnov statistic passes 0.05 once in 10,000 times."""
    everything = problems.all_problems()
    returns = problems.simulate(everything, jax.random.key(1), 2048, 1200)
    for problem, drawn in zip(everything, np.asarray(returns, np.float64), strict=True):
        law = problem.laws[0]
        assert largest_gap(drawn, law) < 0.05
        np.testing.assert_allclose(drawn.mean(), law.mean, atol=4 * law.std / np.sqrt(2048))


@EACH
def test_laws_solve_the_distributional_bellman_equation(problem):
    """One step, then a draw from the law of where it leads: again the law, in every state."""
    drawn = problems.draw((problem,), jax.random.key(2), 20_000)
    rewards, discounts, following = (np.asarray(leaf) for leaf in drawn)
    rng = np.random.default_rng(3)
    later = np.stack([law.sample(rng, 20_000) for law in problem.laws])
    for state, law in enumerate(problem.laws):
        then = later[following[state], np.arange(20_000)]
        assert largest_gap(rewards[state] + discounts[state] * then, law) < 0.016


def test_a_wrong_law_is_found_out():
    returns = problems.fork().laws[0].sample(np.random.default_rng(0), 4096)
    assert largest_gap(1.2 * returns, problems.fork().laws[0]) > 0.05


def test_laws_have_the_tabulated_values():
    loop, fork, skewed, uniform, jackpot = (problem.laws for problem in problems.all_problems())
    np.testing.assert_allclose([loop[0].mean, loop[0].std], [100, 7.08881205], rtol=1e-9)
    np.testing.assert_allclose([fork[1].mean, fork[2].mean], [-10, 10], rtol=1e-12)
    np.testing.assert_allclose(fork[1].std, 1.147078669, rtol=1e-9)
    np.testing.assert_allclose(fork[0].std, 9.059017026, rtol=1e-9)
    np.testing.assert_allclose(skewed[0].quantile(np.array(0.9)), 23.02585093, rtol=1e-9)
    np.testing.assert_allclose(uniform[0].std ** 2, 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(jackpot[0].std ** 2, (1 - 0.05) / 0.05, rtol=1e-12)


def test_side_by_side_problems_keep_to_their_own_states():
    everything = problems.all_problems()
    drawn = problems.draw(everything, jax.random.key(4), 200)
    firsts = problems.start_states(everything)
    assert firsts == (0, 1, 4, 5, 6)
    assert drawn.rewards.shape == (7, 200)
    assert not np.array_equal(drawn.rewards[2], -np.asarray(drawn.rewards[3]))  # no shared noise
    for problem, first in zip(everything, firsts, strict=True):
        own = range(first, first + len(problem.laws))
        assert set(np.unique(drawn.next_states[own.start : own.stop])) <= set(own)


def test_the_fork_is_fair():
    drawn = problems.draw((problems.fork(),), jax.random.key(5), 10_000)
    left = int((drawn.next_states[0] == 1).sum())
    assert scipy.stats.binomtest(left, 10_000).pvalue > 1e-4
    np.testing.assert_array_equal(drawn.rewards[0], 0.0)
