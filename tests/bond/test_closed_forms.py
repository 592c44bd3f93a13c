"""Closed forms in the continuous limit, J-BOND's reward and target, and the speed of the anchor."""

import itertools

import jax
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import rel_entr

from matchbook.bond import brute_force, continuous, jbond, speed

# The sheet's table: N, KL(BoN||ref), KL(ref||BoN), E[log u], E[u].
TABLE = [
    (2, 0.1931, 0.3069, -0.5, 0.6667),
    (4, 0.6363, 1.6137, -0.25, 0.8),
    (8, 1.2044, 4.9206, -0.125, 0.8889),
    (16, 1.8351, 12.2274, -0.0625, 0.9412),
]


@pytest.mark.parametrize("row", TABLE)
def test_continuous_values(row):
    n, *printed = row
    closed = [
        function(n)
        for function in (
            continuous.kl_to_reference,
            continuous.kl_from_reference,
            continuous.mean_log_quantile,
            continuous.mean_quantile,
        )
    ]
    np.testing.assert_allclose(closed, printed, atol=5e-5)
    np.testing.assert_allclose(closed, list(continuous.by_quadrature(n).values()), atol=1e-10)


def test_quadrature_and_closed_forms_also_agree_off_the_integers():
    for n in (1, 1.5, 2.8, 33.3):
        values = continuous.by_quadrature(n)
        assert values["kl_to_reference"] == pytest.approx(continuous.kl_to_reference(n), abs=1e-10)
        assert values["mean_quantile"] == pytest.approx(continuous.mean_quantile(n), abs=1e-10)
        assert quad(lambda u, n=n: continuous.density(u, n), 0, 1)[0] == pytest.approx(1)


def test_continuous_values_are_sample_means_of_maxima():
    maxima = np.random.default_rng(0).random((400_000, 8)).max(axis=1)
    error = 1 / np.sqrt(maxima.size)
    assert abs(maxima.mean() - continuous.mean_quantile(8)) < 4 * error * maxima.std()
    logs = np.log(maxima)
    assert abs(logs.mean() - continuous.mean_log_quantile(8)) < 4 * error * logs.std()


def test_rounds_add_log_2_each_in_the_end():
    np.testing.assert_allclose(
        continuous.kl_after_rounds(np.arange(1, 5)), [row[1] for row in TABLE], atol=5e-5
    )
    later = np.diff(continuous.kl_after_rounds(np.arange(10, 14)))
    np.testing.assert_allclose(later, np.log(2), atol=1e-3)
    assert continuous.kl_after_rounds(3, n=4) == pytest.approx(continuous.kl_to_reference(64))


def test_n_below_one_is_refused():
    with pytest.raises(ValueError, match="N >= 1"):
        continuous.kl_to_reference(np.array([2, 0.5]))


def test_brute_force_equals_drawing():
    rng = np.random.default_rng(1)
    probs, rewards = rng.dirichlet(np.ones(4)), np.array([0, 1, 1, 2])
    drawn = rng.choice(4, size=(300_000, 3), p=probs)
    winners = drawn[np.arange(drawn.shape[0]), rewards[drawn].argmax(axis=1)]
    frequencies = np.bincount(winners, minlength=4) / winners.size
    exact = brute_force.pmf(probs, rewards, 3)
    assert np.abs(frequencies - exact).max() < 4 * np.sqrt(0.25 / winners.size)
    assert np.abs(probs - exact).max() > 0.1


def test_brute_force_refuses():
    with pytest.raises(ValueError, match=r"20\^6 tuples"):
        brute_force.pmf(np.full(20, 0.05), np.arange(20), 6)


def test_penalty_by_cases():
    np.testing.assert_array_equal(
        jbond.reward(np.array([0.0, 1.0, 1.5, 2.0, 3.0]), 1.0, 2.0), [-np.log(16), 0, 0, 0, 0]
    )
    # Strictly worse than both: a tie with the worse of the two is no loss.
    assert jbond.reward(1, 1, 2) == 0
    assert jbond.reward(1, 2, 2) == -np.log(16)


@pytest.mark.parametrize("seed", range(4))
def test_mean_penalty_over_all_pairs_of_anchor_samples(seed):
    rng = np.random.default_rng(seed)
    probs, rewards = rng.dirichlet(np.ones(6)), rng.integers(0, 3, 6)
    mean = np.zeros(6)
    for a, b in itertools.product(range(6), repeat=2):
        mean += probs[a] * probs[b] * jbond.reward(rewards, rewards[a], rewards[b])
    less_equal = (rewards[:, None] >= rewards[None, :]) @ probs
    np.testing.assert_allclose(jbond.expected_reward(less_equal), mean, atol=1e-14)


def test_figure_8():
    p = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
    printed = [-2.502, -2.246, -1.560, -0.693, -0.173, -0.028, 0]
    np.testing.assert_allclose(jbond.expected_reward(p), printed, atol=5e-4)
    assert jbond.expected_reward(0.5) == pytest.approx(np.log(0.5), abs=1e-15)
    difference = jbond.expected_reward(p) - np.log(p)
    np.testing.assert_array_equal(difference[[0, 1]] > 0, True)  # too kind to the worst answers
    assert difference[2] < 0 < difference[4]  # crossed at the median, and once more below it


def test_the_target_that_the_penalty_makes():
    target, normaliser = jbond.backward_target()
    assert normaliser == pytest.approx(0.52237, abs=5e-6)
    numbers = target.numbers
    assert numbers["mean_u"] == pytest.approx(0.6763, abs=5e-5)
    assert numbers["kl_bo2"] == pytest.approx(0.0059, abs=5e-5)
    assert numbers["kl_to_bo2"] == pytest.approx(0.0078, abs=5e-5)
    # On 20,000 equally likely answers instead of quadrature nodes.
    u = (np.arange(20_000) + 0.5) / 20_000
    discrete = 16.0 ** -((1 - u) ** 2)
    discrete /= discrete.sum()
    assert numbers["mean_u"] == pytest.approx(discrete @ u, abs=1e-6)
    best_of_2 = 2 * u / u.size
    assert numbers["kl_bo2"] == pytest.approx(rel_entr(best_of_2, discrete).sum(), abs=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_the_fixed_point_minimises_what_jbond_descends(beta):
    target, _ = jbond.backward_target()
    fixed = jbond.fixed_point(beta)
    best_of_2 = continuous.density(fixed.u, 2)

    def objective(density):
        forward = fixed.weights @ rel_entr(best_of_2, density)
        return (1 - beta) * forward + beta * fixed.weights @ rel_entr(density, target.density)

    assert fixed.weights @ fixed.density == pytest.approx(1, abs=1e-12)
    rng = np.random.default_rng(2)
    lowest = objective(fixed.density)
    for _ in range(20):
        nudge = fixed.density * rng.standard_normal(fixed.u.size)
        nudge -= fixed.density * (fixed.weights @ nudge)
        slope = objective(fixed.density + 1e-6 * nudge) - objective(fixed.density - 1e-6 * nudge)
        assert slope / 2e-6 == pytest.approx(0, abs=1e-8)
        assert objective(fixed.density + 1e-2 * nudge) > lowest
    for other in (target.density, best_of_2):
        assert objective(other) > lowest


def test_the_fixed_point_at_beta_one_half():
    numbers = jbond.fixed_point(0.5).numbers
    printed = {"mean_u": 0.6718, "kl_to_anchor": 0.2007, "kl_bo2": 0.0016, "kl_to_bo2": 0.0019}
    for name, value in printed.items():
        assert numbers[name] == pytest.approx(value, abs=5e-5)
    for beta in (0, 1):
        with pytest.raises(ValueError, match="0 < beta < 1"):
            jbond.fixed_point(beta)


@pytest.mark.parametrize("eta", [0.02, 0.1])
def test_the_speed_law_equals_the_simulated_anchor(eta):
    with jax.enable_x64(True):
        simulated = np.asarray(speed.simulate(40, eta, 5000))
    np.testing.assert_allclose(simulated, speed.kl(np.arange(41), eta), atol=1e-3)
    # The best of 5,000 answers cannot be beaten: long after, the law must fail.
    assert np.log(5000) < speed.kl(600, eta)


def test_the_speed_law_at_the_paper_s_rate():
    printed = [0.1931, 0.8690, 1.7424, 3.6632, 5.6353]
    np.testing.assert_allclose(speed.kl(np.array([0, 50, 100, 200, 300]), 0.02), printed, atol=5e-5)
    last = speed.kl(3000, 0.02) - speed.kl(2999, 0.02)
    assert last == pytest.approx(np.log(1.02), rel=1e-6)


def test_a_hard_anchor_climbs_log_2_each_period():
    assert speed.hard_anchor_period(0.02) == pytest.approx(35.0, abs=0.01)
    stairs = speed.hard_anchor_kl(np.arange(200), 50)
    np.testing.assert_allclose(
        stairs[[0, 49, 50, 99, 150]], continuous.kl_to_reference(np.array([2, 2, 4, 4, 16]))
    )
