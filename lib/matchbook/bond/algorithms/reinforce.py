"""REINFORCE with leave-one-out, the baseline of BOND's Figure 7: reward less a KL (Eq. 1)."""

import functools

import jax
import jax.numpy as jnp
import optax

from matchbook.bond.algorithms.anchors import fixed
from matchbook.bond.algorithms.scoring import (
    Reward,
    Scalar,
    check_samples,
    policy_gradient,
    sample_metrics,
    score,
)
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step, advance
from matchbook.bond.policies import Policy, Prompts, Weights, read_and_sample


def reinforce_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    *,
    beta_rl: Scalar,
    num_samples: int = 2,
) -> Step:
    """A step up ``E[reward] - beta_rl * KL(policy || reference)``; the anchor is the reference.

    The return of an answer is ``reward - beta_rl * (log pi - log ref)``, its baseline the mean
    return of the *same prompt's* other answers. The paper uses 2 samples and beta_rl from 0.001 to
    1. Unlike BOND it depends on the scale of the reward. As an array, `beta_rl` may be traced: see
    `arguments.bound`.

    Raises:
      ValueError: a negative `beta_rl`, or fewer than 2 samples.
    """
    check_samples("num_samples", num_samples, 2)
    if not isinstance(beta_rl, jax.Array) and beta_rl < 0:
        raise ValueError(f"beta_rl weighs a KL: expected beta_rl >= 0, got {beta_rl}")
    return functools.partial(_step, policy, optimizer, reward, beta_rl, num_samples)


def _step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    beta_rl: Scalar,
    num_samples: int,
    state: PolicyState,
    prompts: Prompts,
) -> tuple[PolicyState, Metrics]:
    key, policy_key = jax.random.split(state.key)

    def loss(weights: Weights) -> tuple[jax.Array, Metrics]:
        of_policy, answers = read_and_sample(policy, weights, prompts, policy_key, num_samples)
        (rewards,) = score(reward, prompts, answers)
        anchor_log_probs = policy.log_prob(state.anchor, prompts, answers)
        log_probs = policy.log_prob(weights, of_policy, answers)
        log_ratio = jax.lax.stop_gradient(log_probs) - anchor_log_probs
        metrics = sample_metrics(rewards, log_ratio, rewards, rewards.size)
        metrics["kl_to_reference"] = jnp.mean(log_ratio)
        return policy_gradient(log_probs, rewards - beta_rl * log_ratio, axis=1), metrics

    return advance(state, key, optimizer, fixed, loss)
