"""Intervals against scipy's, against rliable's definitions, and against their promised coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from matchbook.lab import statistics
from matchbook.lab.statistics import (
    Interval,
    bootstrap_interval,
    interquartile_mean,
    iqm,
    mean_interval,
    paired_difference,
    wilson,
)

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_mean_interval_is_scipys_t_interval(n):
    x = RNG.gamma(2.0, size=n)
    ours = mean_interval(x)
    low, high = stats.t.interval(0.95, n - 1, loc=np.mean(x), scale=stats.sem(x))
    np.testing.assert_allclose([ours.value, ours.low, ours.high], [np.mean(x), low, high])


@pytest.mark.parametrize("n", [2, 5, 30])
def test_paired_difference_is_scipys_paired_t_test(n):
    a, b = RNG.normal(size=(2, n)) + RNG.normal(size=n)
    ours, theirs = paired_difference(a, b), stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high])
    assert ours.value == pytest.approx(np.mean(a) - np.mean(b))


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 9), (3, 10), (10, 10), (499, 1000)])
def test_wilson_is_scipys_without_continuity_correction(successes, n):
    theirs = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    ours = wilson(successes, n)
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], atol=1e-12)
    assert ours.value == successes / n
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_one_value_decides_nothing():
    assert mean_interval([3.0]) == Interval(3.0, -math.inf, math.inf)


def test_a_nan_is_never_hidden():
    scores = [1.0, 2.0, math.nan, 3.0, 4.0, 5.0]
    for interval in (mean_interval(scores), iqm(scores), paired_difference(scores, [0.0] * 6)):
        assert math.isnan(interval.value)
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


@pytest.mark.parametrize("n", range(1, 14))
def test_iqm_is_the_trimmed_mean(n):
    x = RNG.normal(size=n)
    assert interquartile_mean(x) == pytest.approx(stats.trim_mean(x, 0.25), rel=1e-14)


def test_iqm_over_tasks_pools_all_runs_as_rliable_does():
    scores = RNG.normal(size=(4, 6))
    assert iqm(scores).value == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def test_iqm_is_equivariant_and_symmetric():
    scores = RNG.normal(size=(3, 8))
    plain, moved, mirrored = iqm(scores), iqm(2 * scores + 5), iqm(-scores)
    for part in ("value", "low", "high"):
        assert getattr(moved, part) == pytest.approx(2 * getattr(plain, part) + 5)
    assert mirrored.low == pytest.approx(-plain.high)
    assert mirrored.high == pytest.approx(-plain.low)
    assert interquartile_mean(RNG.permutation(scores.ravel())) == pytest.approx(plain.value)


def test_iqm_ignores_outliers_that_a_mean_follows():
    x = np.arange(8.0)
    wild = np.where(x == 7, 1e9, x)
    assert interquartile_mean(wild) == interquartile_mean(x) == 3.5


def test_bootstrap_redraws_within_tasks_only():
    # Every task is constant: redrawing within tasks changes nothing, across tasks it would.
    scores = np.repeat([[0.0], [10.0], [20.0]], 5, axis=1)
    assert bootstrap_interval(np.mean, scores) == Interval(10.0, 10.0, 10.0)


def test_bootstrap_of_a_mean_follows_the_closed_form():
    # The bootstrap distribution of a mean has the variance  sum (x - mean)^2 / n^2.
    x = RNG.normal(size=200)
    interval = bootstrap_interval(np.mean, x)
    expected = 1.959964 * np.std(x) / math.sqrt(x.size)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.05)
    assert interval.value == np.mean(x)


def test_bootstrap_is_seeded_and_takes_several_samples():
    a, b = RNG.normal(size=6), RNG.normal(size=9)

    def gap(a, b):
        return np.mean(a) - np.mean(b)

    assert bootstrap_interval(gap, a, b) == bootstrap_interval(gap, a, b, seed=0)
    assert bootstrap_interval(gap, a, b) != bootstrap_interval(gap, a, b, seed=1)


def test_an_interval_holds_its_value():
    # Redrawn maxima lie at or below the maximum: its percentile interval ends there.
    x = np.arange(20.0)
    interval = bootstrap_interval(np.max, x)
    assert interval.low < interval.value == interval.high == 19.0
    # Twice the mean of the redrawn, minus a constant, would lie beside the value.
    skewed = bootstrap_interval(lambda x: float(len(np.unique(x))), x)
    assert skewed.low <= skewed.value <= skewed.high


def _covered(interval_of, draw, truth, trials):
    hits = 0
    for _ in range(trials):
        interval = interval_of(draw())
        hits += interval.low <= truth <= interval.high
    return hits


def test_t_intervals_cover_as_often_as_they_say():
    trials, rng = 4000, np.random.default_rng(1)
    hits = _covered(mean_interval, lambda: rng.normal(3.0, 2.0, size=5), 3.0, trials)
    assert abs(hits - 0.95 * trials) < 4 * math.sqrt(trials * 0.95 * 0.05)


def test_wilson_intervals_cover_about_as_often_as_they_say():
    trials, rng = 4000, np.random.default_rng(2)
    hits = _covered(lambda k: wilson(int(k), 50), lambda: rng.binomial(50, 0.3), 0.3, trials)
    exact = sum(
        stats.binom.pmf(k, 50, 0.3)
        for k in range(51)
        if wilson(k, 50).low <= 0.3 <= wilson(k, 50).high
    )
    assert abs(hits - exact * trials) < 4 * math.sqrt(trials * exact * (1 - exact))
    assert 0.93 < exact < 0.97


def test_bootstrap_intervals_cover_nearly_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 100)
    trials, rng = 200, np.random.default_rng(3)
    # The middle half of a symmetric law has the law's centre as its mean.
    hits = _covered(iqm, lambda: rng.normal(1.0, size=(2, 20)), 1.0, trials)
    spread = 4 * math.sqrt(trials * 0.95 * 0.05)
    assert 0.93 * trials - spread < hits < 0.95 * trials + spread  # percentile: a little narrow


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.12345, 0.10123, 0.14567), "0.123 [0.101, 0.146]"),
        (Interval(12.3, 8.1, 16.5), "12.3 [8.1, 16.5]"),
        (Interval(1234.5, 1111.1, 1357.9), "1234 [1111, 1358]"),
        (Interval(0.5, 0.5, 0.5), "0.5 [0.5, 0.5]"),
        (Interval(2.0, -math.inf, math.inf), "2 [-inf, inf]"),
    ],
)
def test_intervals_are_shown_to_two_digits_of_their_width(interval, text):
    assert str(interval) == f"{interval}" == text


def test_a_format_applies_to_all_three():
    assert f"{Interval(1, 0.5, 2):+.2f}" == "+1.00 [+0.50, +2.00]"


@pytest.mark.parametrize(
    "call",
    [
        lambda: mean_interval([]),
        lambda: mean_interval([[1.0, 2.0]]),
        lambda: paired_difference([1.0, 2.0], [1.0]),
        lambda: iqm(np.zeros((2, 0))),
        lambda: bootstrap_interval(np.mean),
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
    ],
)
def test_what_has_no_interval_is_refused(call):
    with pytest.raises(ValueError, match="got"):
        call()
