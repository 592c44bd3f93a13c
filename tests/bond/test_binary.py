"""Rewards of 0 and 1, against all draws written out; the missing logarithm, against a fine grid."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from matchbook.bond import binary, continuous, missing_log


@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("strict", [True, False])
def test_fines_against_all_draws(p, strict):
    chance = {1: p, 0: 1 - p}
    wanted = []
    for own in (0, 1):
        total = 0.0
        for first, second in itertools.product((0, 1), repeat=2):
            low = min(first, second)
            fined = own < low if strict else own <= low
            total += fined * chance[first] * chance[second]
        wanted.append(total)
    np.testing.assert_allclose(binary.fines(p, strict), wanted, atol=1e-12)
    # The tilted anchor, written out: each outcome times 16 to the minus its chance of a fine.
    failure, success = (1 - p) * 16 ** -wanted[0], p * 16 ** -wanted[1]
    assert binary.backward_target(p, strict) == pytest.approx(success / (success + failure))
    assert binary.tie_rate(p) == pytest.approx(sum(chance[a] ** 2 for a in (0, 1)))
    assert binary.best_of_n(p, 3) == pytest.approx(1 - (1 - p) ** 3)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("beta", [0, 0.5, 1])
@pytest.mark.parametrize("strict", [True, False])
def test_a_round_minimises_the_two_divergences(p, beta, strict):
    def kl(a, b):
        return a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))

    winners, target = binary.best_of_n(p, 2), binary.backward_target(p, strict)
    found = minimize_scalar(
        lambda rate: (1 - beta) * kl(winners, rate) + beta * kl(rate, target),
        bounds=(1e-6, 1 - 1e-6),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert binary.round_of_jbond(p, beta, strict) == pytest.approx(found.x, abs=1e-5)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="beta"):
        binary.round_of_jbond(0.5, 2)
    with pytest.raises(ValueError, match="success rate"):
        binary.round_of_jbond(1.0, 0.5)
    with pytest.raises(ValueError, match="N > 1"):
        missing_log.density(0.5, 1)


@pytest.mark.parametrize("n", [2, 3.5, 16])
def test_the_missing_log_against_a_grid(n):
    u = (np.arange(400_000) + 0.5) / 400_000
    target = np.exp((n - 1) * u)
    target /= target.mean()
    best = n * u ** (n - 1)
    np.testing.assert_allclose(missing_log.density(u[::1000], n), target[::1000], rtol=1e-6)
    assert missing_log.mean_quantile(n) == pytest.approx(np.mean(target * u), abs=1e-6)
    assert missing_log.kl_to_reference(n) == pytest.approx(
        np.mean(target * np.log(target)), abs=1e-6
    )
    log_ratio = np.log(best / target)
    assert missing_log.forward_kl(n) == pytest.approx(np.mean(best * log_ratio), abs=1e-6)
    assert missing_log.backward_kl(n) == pytest.approx(-np.mean(target * log_ratio), abs=1e-4)
    assert np.all(np.diff(continuous.density(u[::1000], n)) > 0)


def test_the_best_answers_are_right():
    reference = jnp.log(jnp.array([[0.4, 0.1, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]]))
    rewards = jnp.array([[1.0, 4.0, 2.0, 3.0], [1.0, 2.0, 2.0, 0.0]])
    found = binary.right_or_wrong(reference, rewards, 0.35)
    # The third answer of the first prompt would bring the share to .6; a tie is right as a whole.
    np.testing.assert_array_equal(found, [[0, 1, 0, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(binary.right_or_wrong(reference, rewards, 0.55)[1], [0, 1, 1, 0])
