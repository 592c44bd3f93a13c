"""Rewards of 0 and 1: what is left of Best-of-N, and of the signal that J-BOND gets from it.

With two rewards an answer's quantile is known from the anchor's success rate p alone, so that a
round of each method is a map from p to another rate. The paper does not treat this case; public
reimplementations on right-or-wrong rewards report no progress. `strict` is Eq. 17's fine for being
*worse* than both anchor samples; not strict, a fine for being no better than either.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import brentq
from scipy.special import expit, logit

from matchbook.bond.continuous import Numbers
from matchbook.bond.jbond import PENALTY
from matchbook.bond.quantiles import LogProbs, Rewards, quantiles


def right_or_wrong(
    reference: LogProbs, rewards: Rewards, share: int | float
) -> Float[Array, "*batch answers"]:
    """1 for the best answers of each prompt, about `share` of the reference's mass, else 0."""
    worse = quantiles(reference, rewards).less
    return (worse >= 1 - share).astype(jnp.float32)


def best_of_n(p: Numbers, n: int | float) -> Numbers:
    """Success rate of Best-of-N: ``1 - (1 - p)^N``."""
    return -np.expm1(n * np.log1p(-np.asarray(p, float)))


def tie_rate(p: Numbers) -> Numbers:
    """Chance that two answers have the same reward: ``p^2 + (1 - p)^2``."""
    p = np.asarray(p, float)
    return p**2 + (1 - p) ** 2


def fines(p: Numbers, strict: bool = True) -> tuple[Numbers, Numbers]:
    """Chances that a failure and that a success are fined, with two anchor samples at rate p."""
    both = np.asarray(p, float) ** 2
    return (both, np.zeros_like(both)) if strict else (np.ones_like(both), both)


def backward_target(p: Numbers, strict: bool = True) -> Numbers:
    """Where J-BOND's backward term alone leads: the anchor, tilted by the mean fine.

    The log-odds of success grow by ``log 16`` times the difference of the two chances of `fines`.
    """
    failure, success = fines(p, strict)
    return expit(logit(p) + PENALTY * (success - failure))


def round_of_jbond(p: float, beta: int | float, strict: bool = True) -> float:
    """Success rate where J-BOND's terms balance, for an anchor at rate `p` that stays.

    Between Best-of-2, where the forward term leads, and `backward_target`: the root of the
    derivative of ``(1-beta) KL(Bo2 || pi) + beta KL(pi || target)``, which only rises.

    Raises:
      ValueError: `beta` outside [0, 1], or `p` not strictly between 0 and 1.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta weighs the backward KL: expected 0 <= beta <= 1, got {beta}")
    if not 0 < p < 1:
        raise ValueError(f"p is a success rate with both outcomes: expected 0 < p < 1, got {p}")
    winners, target = float(best_of_n(p, 2)), float(backward_target(p, strict))

    def slope(log_odds: float) -> float:
        rate = expit(log_odds)
        forward = (rate - winners) / (rate * expit(-log_odds))
        return (1 - beta) * forward + beta * (log_odds - logit(target))

    ends = sorted([logit(winners), logit(target)])
    return float(expit(brentq(slope, ends[0] - 1e-6, ends[1] + 1e-6, xtol=1e-13)))
