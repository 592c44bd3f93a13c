"""BOND's return without its logarithm, as section 4.2 of version 1 prints it: p_<= for log p_<=.

By Eq. 7 the policy gradient then aims at ``ref * exp((N-1) p_<=)`` instead of Best-of-N. Near the
top, where Best-of-N has its mass, p - 1 and log p are alike; at the bottom a bad answer keeps at
least ``exp(-(N-1))`` of its weight relative to the best, however bad it is. For a continuous
reference, by its quantile u.
"""

import numpy as np
from scipy.integrate import quad

from matchbook.bond import continuous
from matchbook.bond.continuous import Numbers


def density(u: Numbers, n: int | float) -> Numbers:
    """Density of that target: ``(N-1) exp((N-1) u) / (exp(N-1) - 1)``, for N > 1."""
    m = _strength(n)
    return m * np.exp(m * (np.asarray(u, float) - 1)) / -np.expm1(-m)


def mean_quantile(n: int | float) -> float:
    """Mean quantile, and win rate against the reference: ``1 / (1 - exp(-(N-1))) - 1 / (N-1)``."""
    m = _strength(n)
    return float(-1 / np.expm1(-m) - 1 / m)


def kl_to_reference(n: int | float) -> float:
    """KL(target || ref) in nats."""
    m = _strength(n)
    return float(np.log(m) - np.log(-np.expm1(-m)) + m * (mean_quantile(n) - 1))


def forward_kl(n: int | float) -> float:
    """KL(BoN || target) in nats: what forward KL there would still be at the target."""
    m = _strength(n)
    mean_log = np.log(m) - np.log(-np.expm1(-m)) + m * (continuous.mean_quantile(n) - 1)
    return float(continuous.kl_to_reference(n) - mean_log)


def backward_kl(n: int | float) -> float:
    """KL(target || BoN) in nats, by quadrature."""
    m = _strength(n)
    mean_log_u = quad(lambda u: density(u, n) * np.log(u), 0, 1, epsabs=1e-12, limit=200)[0]
    return float(kl_to_reference(n) - np.log(n) - m * mean_log_u)


def _strength(n: int | float) -> float:
    if not n > 1:
        raise ValueError(f"Best-of-1 is the reference: expected N > 1, got {n}")
    return float(n - 1)
