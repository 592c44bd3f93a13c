"""Best-of-N distillation (BOND and J-BOND, arXiv 2407.14622): exact theory, and algorithms.

`best_of_n` is the centre: the Best-of-N distribution of anything enumerable, in log space.
`algorithms` has a maker of training steps for each method, over a `policies.Policy`.
"""

from matchbook.bond import (
    algorithms,
    best_of_n,
    binary,
    brute_force,
    continuous,
    counted_target,
    enumerable_lm,
    enumerable_task,
    exact,
    frontier,
    gradients,
    jbond,
    jbond_speed,
    learned_quantile,
    log_linear,
    missing_log,
    monte_carlo,
    policies,
    quantile_estimates,
    quantiles,
    regularisation_check,
    reward_checks,
    sequences,
    speed,
)

__all__ = [
    "algorithms",
    "best_of_n",
    "binary",
    "brute_force",
    "continuous",
    "counted_target",
    "enumerable_lm",
    "enumerable_task",
    "exact",
    "frontier",
    "gradients",
    "jbond",
    "jbond_speed",
    "learned_quantile",
    "log_linear",
    "missing_log",
    "monte_carlo",
    "policies",
    "quantile_estimates",
    "quantiles",
    "regularisation_check",
    "reward_checks",
    "sequences",
    "speed",
]
