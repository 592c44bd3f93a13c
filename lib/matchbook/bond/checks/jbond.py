"""J-BOND's crude reward (Eq. 17, Figure 8), what it aims at, and the estimate that it replaces."""

import itertools

import numpy as np
from scipy.optimize import brentq

from matchbook.bond import continuous, jbond, quantile_estimates
from matchbook.bond.checks.checked import Checked, largest, random_spaces

FIGURE_8 = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
ESTIMATES = ((16, 0.05), (16, 0.25), (2, 0.1))  # samples k, quantile p


def crude_reward(seed: int, cases: int) -> Checked:
    """The mean penalty over all pairs of anchor samples against Eq. 24; Figure 8's two curves.

    ``figure8.crossing`` and ``figure8.lower_crossing`` are where they meet.
    """
    probs, rewards = random_spaces(seed, cases, answers=6)
    mean = np.zeros(probs.shape)
    for a, b in itertools.product(range(6), repeat=2):
        penalty = jbond.reward(rewards, rewards[:, a, None], rewards[:, b, None])
        mean += probs[:, a, None] * probs[:, b, None] * penalty
    less_equal = np.einsum("cij,cj->ci", rewards[:, :, None] >= rewards[:, None, :], probs)
    numbers = {
        "jbond.penalty": jbond.PENALTY,
        "jbond.mean_error": largest(mean - jbond.expected_reward(less_equal)),
        "jbond.median_error": float(jbond.expected_reward(0.5) - np.log(0.5)),
        "figure8.crossing": brentq(_excess, 0.3, 0.9),
        "figure8.lower_crossing": brentq(_excess, 0.01, 0.3),
    }
    for p in FIGURE_8:
        numbers[f"figure8.expected.p{p}"] = float(jbond.expected_reward(p))
        numbers[f"figure8.log_p.p{p}"] = float(np.log(p))
    p = np.geomspace(0.01, 1, 60)
    expected = np.asarray(jbond.expected_reward(p))
    return Checked(numbers, {"figure8.expected": (p, expected), "figure8.log_p": (p, np.log(p))})


def crude_target(beta: float = 0.5) -> Checked:
    """Where the penalty leads instead of Best-of-2, alone and with the forward term at `beta`."""
    target, normaliser = jbond.backward_target()
    fixed = jbond.fixed_point(beta)
    anchor = target._replace(density=np.ones_like(target.u))
    numbers = {
        "jbond.Z": normaliser,
        "jbond.start.penalty_probability": anchor.mean((1 - target.u) ** 2),
        "jbond.start.mean_reward": anchor.mean(jbond.expected_reward(target.u)),
    }
    numbers |= {f"jbond.target.{name}": value for name, value in target.numbers.items()}
    numbers |= {f"jbond.fixed_point.{name}": value for name, value in fixed.numbers.items()}
    shown = np.linspace(0, target.u.size - 1, 50).astype(int)
    densities = {
        "target": target.density,
        "fixed_point": fixed.density,
        "best_of_2": np.asarray(continuous.density(target.u, 2)),
    }
    curves = {f"jbond.{name}": (target.u[shown], y[shown]) for name, y in densities.items()}
    return Checked(numbers, curves)


def quantile_bias() -> Checked:
    """The mean of log p-hat for k samples, in exact binomial sums, beside log p."""
    numbers, curves = {}, {}
    for k, p in ESTIMATES:
        for rule in ("floor", "plus-one"):
            mean = quantile_estimates.mean_log_estimate(p, k, rule)
            numbers[f"quantile.{rule}.k{k}.p{p}"] = float(mean)
        numbers[f"quantile.zero.k{k}.p{p}"] = float(quantile_estimates.probability_of_zero(p, k))
    p = np.geomspace(0.01, 1, 48)
    for k, rule in itertools.product((2, 16), ("floor", "plus-one")):
        mean = quantile_estimates.mean_log_estimate(p, k, rule)
        curves[f"quantile.{rule}.k{k}"] = p, np.asarray(mean)
    return Checked(numbers, curves)


def _excess(p):
    return jbond.expected_reward(p) - np.log(p)
