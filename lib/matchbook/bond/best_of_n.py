"""The Best-of-N distribution of an enumerable reference: BOND, Theorem 1 and Eq. 4-8, in logs.

Draw N answers, keep the one with the highest reward. Unusual here: ties are exact (the winner is
the first, the last or a random one of the tied *samples*; where content breaks ties, put the
refined order into the rewards), N may be any real number >= 1, and probabilities of 1e-300 with
N = 1e6 are fine in float32.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from matchbook.bond import continuous
from matchbook.bond.quantiles import (
    LogProbs,
    Rewards,
    log_complement,
    log_masses,
    log_quantiles,
    normalise,
    quantiles,
)

__all__ = [
    "bond_reward",
    "compose",
    "expected_log_quantile",
    "kl_bound",
    "log_collision",
    "log_pmf",
    "log_quantiles",
    "quantiles",
    "rlhf_optimum",
    "win_rate",
    "win_rate_bound",
]

Scalar = int | float | Real[Array, ""]


def log_pmf(log_probs: LogProbs, rewards: Rewards, n: Scalar) -> LogProbs:
    """Log-probability of each answer under Best-of-N: Theorem 1.

    ``pi_BoN(y) = pi_ref(y) * p_<=(y)^(N-1) * sum_i [p_<(y) / p_<=(y)]^(i-1)``: reference, times a
    penalty exponential in N on bad answers, times the collision sum of `log_collision`.

    Args:
      log_probs: the reference, ``[*batch, answers]``; normalised here, -inf is fine.
      rewards: same shape; only their order matters.
      n: number of samples N >= 1; a real number gives the N-th power of the distribution function.

    Returns:
      ``[*batch, answers]``, at least float32, summing to one, differentiable in `log_probs`.

    Raises:
      ValueError: if `n` is below 1 or the shapes differ.
    """
    n = _samples(n)
    masses = log_masses(log_probs, rewards)
    return _weigh(log_probs, masses.log_quantiles.less_equal, _log_collision(masses, n), n)


def log_collision(log_probs: LogProbs, rewards: Rewards, n: Scalar) -> LogProbs:
    """Log of factor (B) of Theorem 1, ``sum_{i=1..N} [p_< / p_<=]^(i-1)``.

    Between 0, at the worst answer, and log N, in the limit of an answer so unlikely that it is
    never drawn twice (Eq. 5). Arguments as in `log_pmf`.
    """
    return _log_collision(log_masses(log_probs, rewards), _samples(n))


def bond_reward(log_probs: LogProbs, rewards: Rewards, n: Scalar) -> LogProbs:
    """The reward whose RLHF optimum is Best-of-N: ``log p_<= + log(B) / (N - 1)``, Eq. 8.

    That is with KL weight ``beta = 1 / (N - 1)``. Arguments as in `log_pmf`; blind to every
    increasing transform of `rewards`.

    Raises:
      ValueError: if `n` is not above 1: Best-of-1 is the reference, and beta would be infinite.
    """
    if not isinstance(n, jax.Array) and not n > 1:
        raise ValueError(f"the BOND reward needs N > 1 (beta = 1 / (N - 1)), got n={n}")
    n, masses = _samples(n), log_masses(log_probs, rewards)
    collision = _log_collision(masses, n)
    return masses.log_quantiles.less_equal + collision / (n.astype(collision.dtype) - 1)


def rlhf_optimum(
    log_probs: LogProbs, rewards: Rewards, beta: Scalar
) -> tuple[LogProbs, Float[Array, "*batch"]]:
    """The policy that maximises ``E[r] - beta * KL(pi || ref)`` and its log-normaliser: Eq. 1, 7.

    Returns:
      ``log pi_ref + rewards / beta`` normalised, ``[*batch, answers]``, and the log of the sum that
      it was divided by, ``[*batch]``.

    Raises:
      ValueError: if `beta` is not positive.
    """
    if not isinstance(beta, jax.Array) and not beta > 0:
        raise ValueError(f"beta weighs the KL to the reference: expected beta > 0, got {beta}")
    log_probs = normalise(log_probs)
    tilted = log_probs + rewards.astype(log_probs.dtype) / jnp.asarray(beta, log_probs.dtype)
    log_normaliser = jax.nn.logsumexp(tilted, axis=-1)
    return tilted - log_normaliser[..., None], log_normaliser


def compose(log_probs: LogProbs, rewards: Rewards, rounds: Sequence[Scalar]) -> LogProbs:
    """Best-of-n of Best-of-m of ...: what exact iterated BOND arrives at after the given rounds.

    Equals ``log_pmf`` at the product of the rounds: Eq. 16, called informal there, is exact.
    """
    for n in rounds:
        log_probs = log_pmf(log_probs, rewards, n)
    return normalise(log_probs)


def win_rate(
    policy_log_probs: LogProbs, reference_log_probs: LogProbs, rewards: Rewards
) -> Float[Array, "*batch"]:
    """Probability that an answer of the policy beats one of the reference; ties count one half.

    It is also the policy's mean quantile among the reference's answers.
    """
    masses = log_masses(reference_log_probs, rewards)
    beaten = jnp.exp(masses.worse) + jnp.exp(masses.tied) / 2
    return jnp.sum(jnp.exp(normalise(policy_log_probs)) * beaten, axis=-1)


def expected_log_quantile(
    policy_log_probs: LogProbs, reference_log_probs: LogProbs, rewards: Rewards
) -> Float[Array, "*batch"]:
    """The policy's mean of ``log p_<=`` under the reference: the quality in Figures 2 and 4.

    -inf if the policy answers what is worse than everything that the reference says.
    """
    policy = normalise(policy_log_probs)
    log_quantile = log_masses(reference_log_probs, rewards).log_quantiles.less_equal
    given = ~jnp.isneginf(policy)
    return jnp.sum(jnp.exp(policy) * jnp.where(given, log_quantile, 0), axis=-1)


def kl_bound(n: int | float) -> float:
    """The most that Best-of-N can move away: KL(BoN || ref) <= log N - (N-1)/N nats.

    Beirami et al., 2401.01879. Reached only where no answer is ever drawn twice.
    """
    return float(continuous.kl_to_reference(n))


def win_rate_bound(n: int | float) -> float:
    """The most that Best-of-N can win against its reference, ties counted half: N / (N+1)."""
    return float(continuous.mean_quantile(n))


def _samples(n):
    if not isinstance(n, jax.Array) and not n >= 1:
        raise ValueError(f"Best-of-N draws N >= 1 answers, got n={n}")
    return jnp.asarray(n, float)  # always one type: another N compiles nothing anew


@jax.jit
def _weigh(log_probs, log_less_equal, log_collision, n):
    log_probs = normalise(log_probs)
    possible = ~jnp.isneginf(log_probs)  # for the others this would be 0 * -inf at N = 1
    penalty = jnp.where(possible, log_less_equal, 0)
    return log_probs + (n.astype(penalty.dtype) - 1) * penalty + log_collision


@jax.jit
def _log_collision(masses, n):
    n = n.astype(masses.tied.dtype)
    # The sum is (1 - ratio^N) / share, where ratio = p_< / p_<= and share = p_= / p_<= = 1 - ratio.
    less_equal = masses.log_quantiles.less_equal
    log_share = jnp.where(jnp.isneginf(masses.tied), -jnp.inf, masses.tied - less_equal)
    log_ratio = log_complement(log_share, direct=masses.worse - less_equal)
    decay = -n * log_ratio  # ratio^N = exp(-decay): inf at the worst answer, 0 at one never drawn
    frequent = jnp.log1p(-jnp.exp(-jnp.maximum(decay, 1))) - log_share
    # Where both parts of that difference are large (-700 in logs, say), factor N out instead:
    # N * (-log(ratio) / share) * ((1 - exp(-decay)) / decay), of which the last two tend to 1.
    rare = decay < 1
    log_ratio, decay = jnp.where(rare, log_ratio, -1), jnp.where(rare, decay, 1)
    share = jnp.where(rare, jnp.exp(log_share), 1)
    factors = n * _over(-log_ratio, share) * _over(-jnp.expm1(-decay), decay)
    return jnp.where(rare, jnp.log(factors), frequent)


def _over(value, small):
    """``value / small``, which tends to 1: taken as 1 below 1e-18 (1e-36 still is a float32)."""
    vanished = small < 1e-18
    return jnp.where(vanished, 1, value / jnp.where(vanished, 1, small))
