"""The speed law without its two idealisations: J-BOND's own target, and a policy that lags.

`speed` supposes that the policy is Best-of-2 of its anchor. J-BOND aims beside it (BOND, Eq. 17),
and so its anchor runs a little slower: `simulate`. And a policy that has not caught up with its
target is nearer to its anchor than Best-of-2, from which distance its speed follows:
`lagging_slope`. Derived here, not in the paper; in NumPy and float64.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import lambertw

from matchbook.bond.continuous import Numbers
from matchbook.bond.jbond import expected_reward


def log_ratio(anchor: np.ndarray, beta: int | float = 0.5) -> np.ndarray:
    """``log pi - log anchor`` where J-BOND's two terms leave a tabular policy, for each answer.

    The condition is that of `jbond.fixed_point`, for a list of answers: Best-of-2 is
    ``anchor * (p_< + p_<=)``, and the backward term's target ``anchor * 16^(-(1 - p_<=)^2) / Z``.

    Args:
      anchor: probabilities of the answers, from the worst to the best, no ties.
      beta: weight of the backward term; 1 for its target alone.

    Raises:
      ValueError: `beta` is not in (0, 1].
    """
    if not 0 < beta <= 1:
        raise ValueError(f"the backward term must take part: expected 0 < beta <= 1, got {beta}")
    up_to = np.cumsum(anchor)
    penalty = expected_reward(np.minimum(up_to, 1.0))
    backward = penalty - np.log(np.sum(anchor * np.exp(penalty)))
    pull = (1 - beta) / beta * (2 * up_to - anchor)

    def solution(c: float) -> np.ndarray:
        ratio = np.exp(backward - c)  # where the pull vanishes
        w = lambertw(pull / ratio).real
        return np.where(w > 1e-12, pull / np.where(w > 1e-12, w, 1), ratio)

    c = brentq(lambda c: np.sum(anchor * solution(c)) - 1, -50, 50, xtol=1e-14)
    return np.log(solution(c))


def simulate(num_steps: int, eta: int | float, num_answers: int, beta: int | float = 0.5):
    """KL(policy || reference) at steps 0..num_steps, from equally likely answers; nats.

    The anchor's logits are moved ``eta`` of the way to the policy's after each step, as in
    `speed.simulate`.
    """
    log_anchor = np.full(num_answers, -np.log(num_answers))
    found = []
    for _ in range(num_steps + 1):
        ratio = log_ratio(np.exp(log_anchor), beta)
        policy = np.exp(log_anchor + ratio)
        found.append(np.sum(policy * (log_anchor + ratio + np.log(num_answers))))
        log_anchor = log_anchor + eta * ratio
        log_anchor -= np.logaddexp.reduce(log_anchor)
    return np.array(found)


def effective_samples(kl_to_anchor: Numbers) -> Numbers:
    """The m, a real number, for which Best-of-m is `kl_to_anchor` nats away: 2 at 0.193.

    Inverts ``log m - 1 + 1/m``: with x = 1/m it is ``-x exp(-x) = -exp(-1 - kl)``, Lambert's W.

    Raises:
      ValueError: a negative distance.
    """
    distance = np.asarray(kl_to_anchor, float)
    if np.any(distance < 0):
        raise ValueError(f"a KL is not negative, got {kl_to_anchor}")
    near = distance < 1e-12  # W's branch point, which rounding may pass
    found = -1 / lambertw(-np.exp(-1 - np.where(near, 1.0, distance))).real
    return np.where(near, 1.0, found)


def lagging_slope(kl_to_anchor: Numbers, eta: int | float) -> Numbers:
    """KL to the reference per update, nats, of a policy that stays so far from its EMA anchor.

    Best-of-m of the anchor makes its N grow by ``1 + (m - 1) eta``; log(1 + eta) where m = 2.
    """
    return np.log1p((effective_samples(kl_to_anchor) - 1) * eta)
