"""How wrong is the log of a quantile that was counted on k samples? BOND, Eq. 10, in exact sums.

The count j of samples that are not better is binomial(k, p). The paper does not say what it does at
j = 0, where log(j / k) is -inf: two rules that are used are compared here.
"""

from typing import Literal

import numpy as np
from scipy.stats import binom

from matchbook.bond.continuous import Numbers

ZeroRule = Literal["floor", "plus-one"]


def log_estimate(count: Numbers, k: int, rule: ZeroRule) -> Numbers:
    """The estimate of log p after `count` of `k` samples were not better.

    ``floor``: ``log(max(count, 1/2) / k)``. ``plus-one``: ``log((count + 1) / (k + 1))``.
    """
    count = np.asarray(count, float)
    if rule == "floor":
        return np.log(np.maximum(count, 0.5) / k)
    if rule == "plus-one":
        return np.log((count + 1) / (k + 1))
    raise ValueError(f"a zero count is handled by the rule 'floor' or 'plus-one', got {rule!r}")


def mean_log_estimate(p: Numbers, k: int, rule: ZeroRule) -> Numbers:
    """The mean of `log_estimate` over k samples, for the true quantiles `p`; same shape as `p`."""
    counts = np.arange(k + 1)
    return binom.pmf(counts, k, np.asarray(p, float)[..., None]) @ log_estimate(counts, k, rule)


def rms_log_error(p: Numbers, k: int, rule: ZeroRule) -> Numbers:
    """Root of the mean squared difference of `log_estimate` and log p: bias and noise together."""
    counts, p = np.arange(k + 1), np.asarray(p, float)[..., None]
    errors = log_estimate(counts, k, rule) - np.log(p)
    return np.sqrt(np.sum(binom.pmf(counts, k, p) * errors**2, axis=-1))


def probability_of_zero(p: Numbers, k: int) -> Numbers:
    """The chance that no sample is as low as the answer: ``(1 - p)^k``."""
    return (1 - np.asarray(p, float)) ** k
