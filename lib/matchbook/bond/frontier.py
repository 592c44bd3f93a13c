"""What reward costs in KL: lines to compare at equal KL, and those that theory draws.

Two algorithms move at different speeds, so that their rewards at equal *steps* compare nothing but
speeds. At equal KL to the reference they compare (BOND, Figures 4-7, right panels). Two families of
distributions are lines in that plane: Best-of-N, for every real N, and the RLHF optima of Eq. 7,
above which nothing can lie.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real
from numpy.typing import ArrayLike

from matchbook.bond import best_of_n
from matchbook.bond.quantiles import LogProbs, Rewards
from matchbook.divergences import forward_kl

Curve = Float[np.ndarray, "points"]


class Line(NamedTuple):
    """KL to the reference in nats, mean reward and mean log-quantile: means over the prompts."""

    kl: Curve
    reward: Curve
    log_quantile: Curve


def best_of_n_line(reference: LogProbs, rewards: Rewards, ns: Real[np.ndarray, "points"]) -> Line:
    """Best-of-N for each N, which need not be whole.

    Args:
      reference: log-probabilities of all answers, ``[prompts, answers]``.
      rewards: same shape.
      ns: at least 1.
    """
    return _line(best_of_n.log_pmf, reference, rewards, ns)


def rlhf_line(reference: LogProbs, rewards: Rewards, betas: Real[np.ndarray, "points"]) -> Line:
    """The maximisers of ``E[r] - beta * KL(pi || ref)``, one beta for all prompts: Eq. 7.

    Of all policies with the same KL, mean over the prompts, none has a higher mean reward.
    """
    return _line(_optimum, reference, rewards, betas)


def at_kl(kl: ArrayLike, values: ArrayLike, wanted: int | float) -> float:
    """The value where a run first reaches the KL `wanted`.

    Between its points the run is a straight line over the *root* of the KL: near the reference what
    is gained grows with the root, and lines over the KL itself would cut off fast runs' corners.

    Args:
      kl: of the run ``[points]``, in the order of its steps; it need not only rise.
      values: at the same steps: a reward, or the generations spent.
      wanted: nats.

    Returns:
      NaN where the run never gets there, or starts beyond.

    Raises:
      ValueError: `kl` and `values` are not two curves of one length.
    """
    kl, values = np.asarray(kl, float), np.asarray(values, float)
    if kl.ndim != 1 or kl.shape != values.shape:
        raise ValueError(f"expected two curves of one length, got {kl.shape} and {values.shape}")
    beyond = np.flatnonzero(kl >= wanted)
    if not beyond.size or (beyond[0] == 0 and kl[0] > wanted):
        return float("nan")
    after = int(beyond[0])
    before = max(after - 1, 0)
    start, stop, place = np.sqrt(np.maximum([kl[before], kl[after], wanted], 0))
    share = (place - start) / (stop - start) if after > before else 0.0
    return float(values[before] + share * (values[after] - values[before]))


def _optimum(reference: LogProbs, rewards: Rewards, beta: Array) -> LogProbs:
    return best_of_n.rlhf_optimum(reference, rewards, beta)[0]


def _line(family, reference, rewards, settings):
    reference, rewards = best_of_n.normalise(reference), rewards.astype(jnp.float32)
    log_quantiles = best_of_n.log_quantiles(reference, rewards).less_equal
    listed = reference, rewards, log_quantiles
    rows = [_point(family, *listed, jnp.float32(setting)) for setting in settings]
    return Line(*np.asarray(rows, float).T)


@functools.partial(jax.jit, static_argnums=0)
def _point(family, reference, rewards, log_quantiles, setting):
    policy = family(reference, rewards, setting)
    probs = jnp.exp(policy)
    rewards, log_quantiles = (
        jnp.sum(jnp.where(probs > 0, probs * value, 0), axis=-1)  # never 0 * -inf
        for value in (rewards, log_quantiles)
    )
    return [jnp.mean(v) for v in (forward_kl(policy, reference), rewards, log_quantiles)]
