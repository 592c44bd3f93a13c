"""Intervals, never bare means: Student t, paired, bootstrap, interquartile mean, Wilson.

All intervals are 95 %. The bootstrap is the stratified percentile one of Agarwal et al. 2021
("Deep RL at the edge of the statistical precipice"): runs are redrawn within each task.
A sample that holds a NaN gives an interval of NaNs, which no claim can be decided on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

CONFIDENCE = 0.95
RESAMPLES = 5000


@dataclass(frozen=True)
class Interval:
    """A value between the ends of its 95 % interval.

    `str(interval)` rounds to two significant digits of the half width: `0.123 [0.101, 0.146]`;
    a format specification is applied to each of the three numbers.
    """

    value: float | int
    low: float | int
    high: float | int

    def __str__(self) -> str:
        half = (self.high - self.low) / 2
        if not math.isfinite(half) or half <= 0:
            return format(self, ".6g")
        decimals = max(0, 1 - math.floor(math.log10(half)))
        return format(self, f".{decimals}f")

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def mean_interval(sample: ArrayLike) -> Interval:
    """The mean of `sample` [n] with its Student t interval; one value alone has an infinite one."""
    x = _sample(sample, "sample")
    mean = float(np.mean(x))
    if x.size == 1:
        return Interval(mean, mean - math.inf, mean + math.inf)
    error = float(np.std(x, ddof=1)) / math.sqrt(x.size)
    half = error * float(special.stdtrit(x.size - 1, (1 + CONFIDENCE) / 2))
    return Interval(mean, mean - half, mean + half)


def paired_difference(first: ArrayLike, second: ArrayLike) -> Interval:
    """The mean of `first - second` [n] with the t interval of the differences.

    For arms that share their seeds: what a seed does to both arms cancels.

    Raises:
        ValueError: the two samples differ in length.
    """
    a, b = _sample(first, "first"), _sample(second, "second")
    if a.size != b.size:
        raise ValueError(f"paired samples are of one length; got {a.size} and {b.size}")
    return mean_interval(a - b)


def iqm(scores: ArrayLike) -> Interval:
    """Interquartile mean of `scores` [seeds] or [tasks, seeds], with its bootstrap interval.

    The mean of the middle half of all runs, as in rliable; tasks are the strata.
    """
    return bootstrap_interval(interquartile_mean, scores)


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of what is left when the lowest and highest quarter (rounded down) are cut off."""
    x = np.sort(np.asarray(scores, np.float64), axis=None)
    if np.isnan(x).any():  # sorted to the end, where the cut would hide them
        return math.nan
    cut = x.size // 4
    return float(np.mean(x[cut : x.size - cut]))


def bootstrap_interval(
    statistic: Callable[..., float], *samples: ArrayLike, seed: int = 0
) -> Interval:
    """`statistic(*samples)` with its stratified percentile bootstrap interval.

    Args:
        statistic: maps arrays of the shapes of `samples` to a number.
        samples: arrays [runs] or [tasks, runs]; runs are redrawn with replacement within a task,
            and for each sample by itself.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: no sample, an empty one, or more than two axes.
    """
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    if not arrays or any(x.ndim not in (1, 2) or x.size == 0 for x in arrays):
        shapes = [x.shape for x in arrays]
        raise ValueError(f"samples are [runs] or [tasks, runs], not empty; got shapes {shapes}")
    value = float(statistic(*arrays))
    if any(np.isnan(x).any() for x in arrays):
        return Interval(value, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    draws = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        again = [np.take_along_axis(x, _draw(generator, x.shape), axis=-1) for x in arrays]
        draws[i] = statistic(*again)
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    # The percentiles of a skewed statistic may leave out the value itself; an interval holds it.
    return Interval(value, min(float(low), value), max(float(high), value))


def wilson(successes: int, n: int) -> Interval:
    """The share `successes / n` with Wilson's (1927) score interval, right at 0 and n too."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"0 <= successes <= n and n >= 1; got {successes} of {n}")
    z = float(special.ndtri((1 + CONFIDENCE) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half  # exactly the ends, not up to rounding
    high = 1.0 if successes == n else centre + half
    return Interval(share, low, high)


def _draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.integers(shape[-1], size=shape)


def _sample(values: ArrayLike, name: str) -> np.ndarray:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"{name} is one-dimensional and not empty; got shape {x.shape}")
    return x
