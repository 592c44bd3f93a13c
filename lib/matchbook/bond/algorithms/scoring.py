"""What the algorithms share between sampling and the loss: rewards, winners, baselines, metrics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from matchbook.bond.monte_carlo import tie_rate
from matchbook.bond.policies import Answers, LogProbs, Prompts, Winners

Reward = Callable[[Any, Any], Real[Array, "prompts samples"]]
Reference = Callable[[Any, Any], LogProbs]
Rewards = Float[Array, "prompts samples"]
Scalar = int | float | Float[Array, ""]


def score(
    reward: Reward, prompts: Prompts, *groups: Int[Array, "prompts _ *answer"]
) -> tuple[Float[Array, "prompts _"], ...]:
    """The rewards of several groups of answers, in one call of `reward`; float32.

    Raises:
      ValueError: `reward` returns another shape than ``[prompts, samples]``.
    """
    answers = jnp.concatenate(groups, axis=1)
    rewards = reward(prompts, answers)
    if rewards.shape != answers.shape[:2]:
        raise ValueError(
            f"a reward gives one number an answer, [prompts, samples] = {answers.shape[:2]}; "
            f"got {rewards.shape}"
        )
    ends = [sum(group.shape[1] for group in groups[:i]) for i in range(1, len(groups))]
    return tuple(jnp.split(rewards.astype(jnp.float32), ends, axis=1))


def pick(
    answers: Answers, index: Int[Array, "prompts picked"]
) -> Int[Array, "prompts picked *answer"]:
    """The samples of each prompt with the given places, ``[prompts, picked, *answer]``."""
    return answers[jnp.arange(answers.shape[0])[:, None], index]


def best(answers: Answers, rewards: Rewards) -> Winners:
    """The winner of each prompt, ``[prompts, 1, *answer]``; of tied samples the first.

    Which of the tied samples wins makes no difference to the distribution: Theorem 1 holds.
    """
    return pick(answers, jnp.argmax(rewards, axis=1, keepdims=True))


def leave_one_out(returns: Rewards, axis: int | None = None) -> Rewards:
    """For each return the mean of the others: of the batch, or along one axis.

    A baseline that does not depend on the sample itself leaves the policy gradient unbiased.

    Raises:
      ValueError: there are no others.
    """
    count = returns.size if axis is None else returns.shape[axis]
    if count < 2:
        raise ValueError(
            f"a leave-one-out baseline takes two returns at least, got {returns.shape}: "
            "use more prompts or samples in a batch"
        )
    total = jnp.sum(returns, axis=axis, keepdims=True)
    return (jnp.broadcast_to(total, returns.shape) - returns) / (count - 1)


def policy_gradient(log_probs: LogProbs, returns: Rewards, axis: int | None = None) -> Array:
    """A loss whose gradient is ``-E[d log pi(y) * (return - baseline)]``; means over the batch."""
    advantage = jax.lax.stop_gradient(returns - leave_one_out(returns, axis))
    return -jnp.mean(log_probs * advantage)


def sample_metrics(
    rewards: Rewards,
    log_ratio: LogProbs,
    compared: Float[Array, "prompts compared"],
    generations: int,
) -> dict[str, Array]:
    """The metrics of every algorithm.

    reward: mean of the policy's answers.
    kl_to_anchor: nats, mean of log pi - log anchor on the policy's answers.
    tie_rate: share of pairs of a prompt's samples in `compared` with equal reward.
    compared_reward: their mean: not finite, if any of them is not.
    generations: answers drawn in this step.
    """
    return {
        "reward": jnp.mean(rewards),
        "kl_to_anchor": jnp.mean(log_ratio),
        "tie_rate": tie_rate(compared),
        "compared_reward": jnp.mean(compared),
        "generations": jnp.float32(generations),
    }


def reference_metrics(
    reference: Reference | None, prompts: Prompts, answers: Answers, log_probs: LogProbs
) -> dict[str, Array]:
    """``kl_to_reference`` in nats, sampled, where a reference is given: one more forward pass."""
    if reference is None:
        return {}
    return {"kl_to_reference": jnp.mean(log_probs - reference(prompts, answers))}


def check_beta(beta: int | float) -> None:
    """Raises ValueError if `beta` is outside [0, 1]."""
    if not 0 <= beta <= 1:
        raise ValueError(
            f"beta is the weight of the backward KL: expected 0 <= beta <= 1, got {beta}"
        )


def check_samples(name: str, value: int, least: int) -> None:
    """Raises ValueError if a number of samples is below the least that makes sense."""
    if value < least:
        raise ValueError(f"{name}: expected at least {least} samples a prompt, got {value}")
