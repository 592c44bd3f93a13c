"""The reward of J-BOND and what it makes of Best-of-2: BOND, Eq. 17, 24 and appendix A.4.

J-BOND replaces log p_<= by a penalty for being worse than *both* of two anchor samples. Its mean is
a parabola in the quantile, so that the distribution it aims at is not quite Best-of-2; how far off
is computed here by quadrature over the anchor's quantile u, for a continuous anchor.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import lambertw

from matchbook.bond import continuous
from matchbook.bond.continuous import Numbers

PENALTY = -math.log(16)


def reward(rewards: Numbers, first_anchor: Numbers, second_anchor: Numbers) -> Numbers:
    """``-log 16`` where an answer is strictly worse than both anchor samples, else 0: Eq. 17."""
    worse = np.asarray(rewards) < np.minimum(first_anchor, second_anchor)
    return np.where(worse, PENALTY, 0.0)


def expected_reward(less_equal: Numbers) -> Numbers:
    """Mean of `reward` over the two anchor samples: ``-log(16) * (1 - p_<=)^2``, Eq. 24, Figure 8.

    Exact with ties too. Meets ``log p_<=`` at the median, which is what the 16 is for.
    """
    return PENALTY * (1 - np.asarray(less_equal, float)) ** 2


class Target(NamedTuple):
    """A density over the anchor's quantile, at quadrature nodes, beside that of Best-of-2."""

    u: np.ndarray
    density: np.ndarray
    weights: np.ndarray

    def mean(self, value: Numbers) -> float:
        """The mean under this density of what takes `value` at the nodes."""
        return float(np.sum(self.weights * self.density * value))

    @property
    def numbers(self) -> dict[str, float]:
        """Mean quantile, KL to the anchor, and both KLs to Best-of-2, in nats."""
        best_of_2 = continuous.density(self.u, 2)
        log_ratio = np.log(self.density / best_of_2)
        return {
            "mean_u": self.mean(self.u),
            "kl_to_anchor": self.mean(np.log(self.density)),
            "kl_bo2": float(-np.sum(self.weights * best_of_2 * log_ratio)),
            "kl_to_bo2": self.mean(log_ratio),
        }


def backward_target(num_nodes: int = 200) -> tuple[Target, float]:
    """Where the backward term alone leads: ``16^(-(1-u)^2) / Z`` times the anchor; and Z."""
    u, weights = _nodes(num_nodes)
    tilted = np.exp(expected_reward(u))
    normaliser = float(np.sum(weights * tilted))
    return Target(u, tilted / normaliser, weights), normaliser


def fixed_point(beta: int | float, num_nodes: int = 200) -> Target:
    """Where J-BOND's two terms together lead: forward to Best-of-2, backward to `backward_target`.

    Setting the derivative of ``(1-beta) KL(Bo2 || pi) + beta KL(pi || q)`` to a constant gives
    ``w exp(w) = a exp(c)`` with ``w = (1-beta) Bo2 / (beta pi)`` at each u: Lambert's W, where a is
    that w with q for pi. The constant c is the one with which pi integrates to one.

    Raises:
      ValueError: if `beta` is not strictly between 0 and 1; the ends are Best-of-2 itself and
        `backward_target`.
    """
    if not 0 < beta < 1:
        raise ValueError(f"both terms must take part: expected 0 < beta < 1, got {beta}")
    target, _ = backward_target(num_nodes)
    pull = (1 - beta) / beta * continuous.density(target.u, 2)

    def solution(c):
        return pull / lambertw(pull / target.density * np.exp(c)).real

    c = brentq(lambda c: np.sum(target.weights * solution(c)) - 1, -50, 50, xtol=1e-14)
    return target._replace(density=solution(c))


def _nodes(num_nodes):
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return (nodes + 1) / 2, weights / 2
