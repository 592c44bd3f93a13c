"""Where an answer's reward stands among the reference's answers: BOND, Eq. 2-3, exactly.

For an enumerable reference, by sorting, so that 32,768 answers need no 32,768 x 32,768 comparison.
Unusual here: everything is in log space and both tails are kept. The N-th power of a quantile needs
``log p`` near p = 1 to a *relative* precision, which only the mass above the answer can give.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

LogProbs = Float[Array, "*batch answers"]
Rewards = Real[Array, "*batch answers"]


class Quantiles(NamedTuple):
    """``less`` is P[r(y') < r(y)], ``less_equal`` P[r(y') <= r(y)] for y' from the reference."""

    less: LogProbs
    less_equal: LogProbs


class LogMasses(NamedTuple):
    """Log-probabilities that a reference sample is worse than, tied with, better than an answer."""

    worse: LogProbs
    tied: LogProbs
    better: LogProbs

    @property
    def log_quantiles(self) -> Quantiles:
        """log p_< and log p_<=: each as the complement of the other tail where that is smaller."""
        return _log_quantiles(*self)


def quantiles(log_probs: LogProbs, rewards: Rewards) -> Quantiles:
    """p_< and p_<= of each answer: BOND, Eq. 2 and 3. Arguments as in `log_masses`."""
    return Quantiles(*(jnp.exp(log_p) for log_p in log_quantiles(log_probs, rewards)))


def log_quantiles(log_probs: LogProbs, rewards: Rewards) -> Quantiles:
    """log p_< and log p_<= of each answer, to relative precision at both ends.

    Arguments as in `log_masses`. -inf where nothing is worse, or nothing is worse or equal.
    """
    return log_masses(log_probs, rewards).log_quantiles


def log_masses(log_probs: LogProbs, rewards: Rewards) -> LogMasses:
    """Split the reference's mass, for each answer, into worse, tied and better.

    Args:
      log_probs: the reference's log-probabilities over all answers, ``[*batch, answers]``; -inf for
        answers that never come. They are normalised here, since a rounding error in their sum would
        be raised to the power N later.
      rewards: one reward an answer, same shape. Only their order matters; equal rewards are ties. A
        NaN among them has no place in an order and makes the whole example NaN.

    Returns:
      Three arrays of that shape, at least float32, differentiable in `log_probs`.

    Raises:
      ValueError: if the two shapes differ.
    """
    if log_probs.shape != rewards.shape:
        raise ValueError(
            "log_probs and rewards must have one shape [..., answers], "
            f"got {log_probs.shape} and {rewards.shape}: broadcast one to the other"
        )
    return _log_masses(log_probs, rewards)


def normalise(log_probs: LogProbs) -> LogProbs:
    """`log_probs` in at least float32, summing to one over the last axis."""
    return jax.nn.log_softmax(log_probs.astype(np.promote_types(log_probs.dtype, np.float32)))


def log_complement(log_rest: LogProbs, direct: LogProbs) -> LogProbs:
    """``log(1 - exp(log_rest))`` where the rest is the smaller part, else the `direct` value."""
    use_rest = log_rest < np.log(0.5)
    rest = jnp.exp(jnp.where(use_rest, log_rest, -1.0))
    return jnp.where(use_rest, jnp.log1p(-rest), direct)


@jax.jit
def _log_quantiles(worse, tied, better):
    return Quantiles(
        less=log_complement(jnp.logaddexp(tied, better), direct=worse),
        less_equal=log_complement(better, direct=jnp.logaddexp(worse, tied)),
    )


@jax.jit
def _log_masses(log_probs, rewards):
    signature = "(answers),(answers)->(answers),(answers),(answers)"
    one_by_one = jnp.vectorize(_masses_of_one_prompt, signature=signature)
    masses = one_by_one(normalise(log_probs), rewards)
    unordered = jnp.isnan(rewards).any(axis=-1, keepdims=True)
    return LogMasses(*(jnp.where(unordered, jnp.nan, mass) for mass in masses))


def _masses_of_one_prompt(log_probs, rewards):
    # -inf has no derivative in a cumulative log-sum-exp: stand in for it with a floor so low that
    # it adds nothing, and turn what is left at the floor back into -inf afterwards.
    floor = jnp.asarray(jnp.finfo(log_probs.dtype).min / 4, log_probs.dtype)
    padded = jnp.where(jnp.isneginf(log_probs), floor, log_probs)
    order = jnp.argsort(rewards)
    ordered_rewards, ordered = rewards[order], padded[order]
    first = jnp.searchsorted(ordered_rewards, rewards, side="left")
    after_last = jnp.searchsorted(ordered_rewards, rewards, side="right")

    both_ways = jnp.stack([ordered, ordered[::-1]])
    sums = jnp.pad(jax.lax.cumlogsumexp(both_ways, axis=1), ((0, 0), (1, 0)), constant_values=floor)
    # The mass of a tie is summed by itself: as a difference of two cumulative sums it would drown.
    peak = jax.ops.segment_max(jax.lax.stop_gradient(padded), first, rewards.size)[first]
    tied = peak + jnp.log(jax.ops.segment_sum(jnp.exp(padded - peak), first, rewards.size))[first]
    return tuple(
        jnp.where(mass < floor / 2, -jnp.inf, mass)
        for mass in (sums[0][first], tied, sums[1][rewards.size - after_last])
    )
