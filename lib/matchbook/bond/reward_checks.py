"""Does a reward tell answers apart? Asked before training, on samples of the reference.

BOND learns from the order of rewards alone: where all samples of a prompt tie it has no signal, and
with binary rewards most of them may.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from matchbook.bond.algorithms.scoring import Reward, score
from matchbook.bond.monte_carlo import tie_rate
from matchbook.bond.policies import Policy, Prompts, Weights


class RewardReport(NamedTuple):
    """What `check_rewards` found.

    tie_rate: share of pairs of a prompt's samples with equal reward.
    constant_prompts: share of prompts all of whose samples tie.
    mean, std: of all rewards.
    """

    tie_rate: float
    constant_prompts: float
    mean: float
    std: float


def check_reward(
    policy: Policy,
    weights: Weights,
    prompts: Prompts,
    reward: Reward,
    key: Key[Array, ""],
    *,
    num_samples: int = 8,
    max_tie_rate: int | float = 0.9,
) -> RewardReport:
    """`check_rewards` on `num_samples` fresh answers of a policy to each prompt.

    Raises:
      ValueError: see `check_rewards`.
    """

    @jax.jit
    def drawn(weights: Weights, prompts: Prompts, key: Key[Array, ""]) -> Array:
        answers, _ = policy.sample(weights, prompts, key, num_samples)
        return score(reward, prompts, answers)[0]

    return check_rewards(np.asarray(drawn(weights, prompts, key)), max_tie_rate=max_tie_rate)


def check_rewards(
    rewards: Float[np.ndarray, "prompts samples"], *, max_tie_rate: int | float = 0.9
) -> RewardReport:
    """What rewards make of several answers to each prompt, if it is anything to learn from.

    Raises:
      ValueError: a reward that is not finite (naming the first prompt); all rewards equal; more
        than `max_tie_rate` of the pairs of a prompt's answers equal (naming the tie rate).
    """
    finite = np.isfinite(rewards)
    if not finite.all():
        prompt = int(np.argmin(finite.all(axis=1)))
        raise ValueError(
            f"{(~finite).sum()} of {finite.size} rewards are not finite, the first for prompt "
            f"{prompt}: {rewards[prompt].tolist()}: mend the reward, it cannot be ordered"
        )
    ties = float(tie_rate(jnp.asarray(rewards)))
    if np.all(rewards == rewards.flat[0]):
        raise ValueError(
            f"the reward is constant, {rewards.flat[0]}, on {rewards.size} answers (tie rate "
            f"{ties:.3f}): there is nothing to learn from"
        )
    if ties > max_tie_rate:
        raise ValueError(
            f"tie rate {ties:.3f}: that share of the pairs of a prompt's answers have equal "
            f"rewards, expected at most {max_tie_rate}: BOND learns from order alone. Use a "
            "finer reward, other prompts, or a higher max_tie_rate"
        )
    constant = np.mean(rewards.max(axis=1) == rewards.min(axis=1))
    return RewardReport(ties, float(constant), float(rewards.mean()), float(rewards.std()))
