"""Best-of-N distillation (BOND and J-BOND, arXiv 2407.14622): the exact theory.

`best_of_n` is the centre: the Best-of-N distribution of anything enumerable, in log space.
"""

from matchbook.bond import (
    best_of_n,
    brute_force,
    continuous,
    gradients,
    jbond,
    quantile_estimates,
    quantiles,
    speed,
)

__all__ = [
    "best_of_n",
    "brute_force",
    "continuous",
    "gradients",
    "jbond",
    "quantile_estimates",
    "quantiles",
    "speed",
]
