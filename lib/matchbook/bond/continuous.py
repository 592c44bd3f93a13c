"""Best-of-N of a continuous reference: no answer comes twice, so only quantiles matter.

BOND, appendix A.2: in u = p_<=(y), uniform on [0, 1] under the reference, Best-of-N has density
N u^(N-1). What follows from it is closed form, in float64 on the host: these are numbers to compare
with, not steps to differentiate. N may be any real number >= 1, or an array of them.
"""

import numpy as np
from scipy.integrate import quad

Numbers = int | float | np.number | np.ndarray  # one number or an array of them


def density(u: Numbers, n: Numbers) -> Numbers:
    """Density of Best-of-N at the reference quantile `u`: ``N u^(N-1)``."""
    n = _samples(n)
    return n * np.asarray(u, float) ** (n - 1)


def kl_to_reference(n: Numbers) -> Numbers:
    """KL(BoN || ref) = log N - (N-1)/N, nats."""
    n = _samples(n)
    return np.log(n) - (n - 1) / n


def kl_from_reference(n: Numbers) -> Numbers:
    """KL(ref || BoN) = N - 1 - log N, nats."""
    n = _samples(n)
    return n - 1 - np.log(n)


def mean_log_quantile(n: Numbers) -> Numbers:
    """E_BoN[log u] = -1/N; the reference itself has -1."""
    return -1 / _samples(n)


def mean_quantile(n: Numbers) -> Numbers:
    """E_BoN[u] = N/(N+1), which is also the win rate against the reference."""
    n = _samples(n)
    return n / (n + 1)


def kl_after_rounds(rounds: Numbers, n: int = 2) -> Numbers:
    """KL to the reference after exact rounds of iterated BOND: Best-of-n^M, Eq. 16.

    With n = 2 it is ``M log 2 - (2^M - 1) / 2^M``: each later round adds about log 2.
    """
    return kl_to_reference(float(n) ** np.asarray(rounds, float))


def by_quadrature(n: int | float) -> dict[str, float]:
    """The four values above, integrated numerically from the density alone."""

    def integrate(value):
        return quad(value, 0, 1, epsabs=1e-13, epsrel=1e-13, limit=500)[0]

    def log_density(u):
        return np.log(n) + (n - 1) * np.log(u)

    return {
        "kl_to_reference": integrate(lambda u: density(u, n) * log_density(u)),
        "kl_from_reference": integrate(lambda u: -log_density(u)),
        "mean_log_quantile": integrate(lambda u: density(u, n) * np.log(u)),
        "mean_quantile": integrate(lambda u: density(u, n) * u),
    }


def _samples(n):
    n = np.asarray(n, float)
    if not np.all(n >= 1):
        raise ValueError(f"Best-of-N draws N >= 1 answers, got n={n}")
    return n
