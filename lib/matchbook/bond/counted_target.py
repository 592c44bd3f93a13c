"""Where BOND leads if quantiles are counted on k samples: the bias of log p, seen in the target.

The policy gradient uses the estimate of ``log p_<=`` as a reward, so that what it aims at depends
on the estimate's *mean* alone: ``ref * exp((N-1) * mean estimate)`` instead of Best-of-N (BOND,
Eq. 7-8, 10). For a continuous reference, by its quantile u, on a fine grid. The noise of the
estimate makes training slower but moves no target.
"""

from typing import NamedTuple

import numpy as np

from matchbook.bond.quantile_estimates import ZeroRule, mean_log_estimate


class CountedTarget(NamedTuple):
    """A target as a density at the midpoints `u` of equal cells, beside Best-of-N's.

    forward_kl: KL(BoN || target), nats.
    backward_kl: KL(target || BoN), nats.
    mean_log_quantile: of the target; Best-of-N has -1/N.
    """

    u: np.ndarray
    density: np.ndarray
    forward_kl: float
    backward_kl: float
    mean_log_quantile: float


def counted_target(n: int, k: int, rule: ZeroRule, cells: int = 20_000) -> CountedTarget:
    """What Best-of-`n` becomes with quantiles counted on `k` samples.

    Raises:
      ValueError: `n` or `k` below 2, or an unknown rule.
    """
    if n < 2 or k < 2:
        raise ValueError(f"expected n and k of at least 2, got n={n} and k={k}")
    u = (np.arange(cells) + 0.5) / cells
    logits = (n - 1) * mean_log_estimate(u, k, rule)
    log_density = logits - np.log(np.mean(np.exp(logits)))
    log_best = np.log(n) + (n - 1) * np.log(u)
    density = np.exp(log_density)
    return CountedTarget(
        u=u,
        density=density,
        forward_kl=float(np.mean(np.exp(log_best) * (log_best - log_density))),
        backward_kl=float(np.mean(density * (log_density - log_best))),
        mean_log_quantile=float(np.mean(density * np.log(u))),
    )
