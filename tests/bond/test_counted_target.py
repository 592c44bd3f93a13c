"""The bias of counted quantiles, against samples and against limits that are known."""

import numpy as np
import pytest

from matchbook.bond import continuous, counted_target, jbond, quantile_estimates


@pytest.mark.parametrize("rule", ["floor", "plus-one"])
def test_mean_and_spread_of_the_estimate_against_samples(rule):
    rng, k, p = np.random.default_rng(0), 5, 0.3
    drawn = quantile_estimates.log_estimate(rng.binomial(k, p, 400_000), k, rule)
    mean = quantile_estimates.mean_log_estimate(p, k, rule)
    assert mean == pytest.approx(drawn.mean(), abs=0.005)
    wanted = np.sqrt(np.mean((drawn - np.log(p)) ** 2))
    assert quantile_estimates.rms_log_error(p, k, rule) == pytest.approx(wanted, abs=0.005)


@pytest.mark.parametrize("rule", ["floor", "plus-one"])
def test_with_many_samples_the_target_is_best_of_n(rule):
    far, near = (counted_target.counted_target(4, k, rule, 4000) for k in (4, 1000))
    assert near.forward_kl < 2e-5 < far.forward_kl
    assert near.backward_kl < 1e-4 < far.backward_kl
    assert near.mean_log_quantile == pytest.approx(continuous.mean_log_quantile(4), abs=2e-3)
    np.testing.assert_allclose(np.mean(near.density), 1, atol=1e-12)


def test_two_samples_give_three_values():
    """At k = 2 the mean estimate is a polynomial: (1-u)^2 log 1/4 + 2 u (1-u) log 1/2."""
    found = counted_target.counted_target(2, 2, "floor", 4000)
    u = found.u
    tilted = np.exp((1 - u) ** 2 * np.log(1 / 4) + 2 * u * (1 - u) * np.log(1 / 2))
    np.testing.assert_allclose(found.density, tilted / tilted.mean(), rtol=1e-12)
    # J-BOND's fine does better with the same two samples.
    best = continuous.density(jbond.backward_target()[0].u, 2)
    target, _ = jbond.backward_target()
    forward = np.sum(target.weights * best * np.log(best / target.density))
    assert forward < 0.5 * found.forward_kl
    with pytest.raises(ValueError, match="at least 2"):
        counted_target.counted_target(1, 2, "floor")
