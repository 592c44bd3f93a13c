"""BOND (sections 4.1-4.3): Best-of-N by Jeffreys, with quantiles counted on k anchor samples.

Unusual: the N samples that the winner is chosen from and the k that quantiles are counted on are
the same where they can be, max(N, k) in all. Forward and backward term are added, so that what they
share cannot bias their sum. The paper does not say which it does.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from matchbook.bond.algorithms.anchors import AnchorUpdate, fixed, hard
from matchbook.bond.algorithms.scoring import (
    Reference,
    Reward,
    Rewards,
    best,
    check_beta,
    check_samples,
    policy_gradient,
    reference_metrics,
    sample_metrics,
    score,
)
from matchbook.bond.algorithms.state import Loss, Metrics, PolicyState, Step, advance
from matchbook.bond.monte_carlo import log_quantile
from matchbook.bond.policies import Answers, LogProbs, Policy, Prompts, Weights, Winners
from matchbook.bond.quantile_estimates import ZeroRule


def bond_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    *,
    n: int | Float[Array, ""],
    k: int = 16,
    beta: int | float = 0.5,
    zero_rule: ZeroRule = "floor",
    anchor: AnchorUpdate = fixed,
    reference: Reference | None = None,
) -> Step:
    """A step towards Best-of-N of the anchor; ``max(n, k) + 1`` generations a prompt.

    Descends ``(1 - beta) * forward + beta * backward``: `forward` fine-tunes on the best of `n`
    anchor samples (Eq. 13); `backward` is a policy gradient with the return
    ``(n - 1) log p_<= - (log pi - log anchor)`` (Eq. 15, its factor n - 1 kept), less the mean
    return of the batch's other answers. Term (B) of Eq. 8 is dropped, as in section 4.2.

    Args:
      n: of Best-of-N. An array may be traced, see `arguments.bound`; it must not be above `k` then.
      k: anchor samples that quantiles are counted on; the paper trains with 16.
      beta: weight of the backward KL.
      zero_rule: what stands for log p where none of the k is as low; see `monte_carlo`.
      anchor: the reference stays by default.
      reference: where given, ``kl_to_reference`` is logged too: for an anchor that moves.

    Raises:
      ValueError: `n` or `k` below 2, `beta` outside [0, 1].
    """
    check_beta(beta)
    check_samples("k", k, 2)
    if not isinstance(n, jax.Array):
        check_samples("n", n, 2)
    return functools.partial(
        _step, policy, optimizer, reward, anchor, n, k, float(beta), zero_rule, reference
    )


def iterated_bond_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    *,
    n: int,
    period: int,
    k: int = 16,
    beta: int | float = 0.5,
    zero_rule: ZeroRule = "floor",
    reference: Reference | None = None,
) -> Step:
    """Algorithm 1: `bond_step`, whose anchor becomes the policy every `period` updates.

    After M rounds it aims at Best-of-n^M of the reference (Eq. 16).
    """
    return bond_step(
        policy,
        optimizer,
        reward,
        n=n,
        k=k,
        beta=beta,
        zero_rule=zero_rule,
        anchor=hard(period),
        reference=reference,
    )


class Draws(NamedTuple):
    """What one step of BOND samples, and how it is scored.

    key: for the next step.
    answers, rewards: one of the policy for each prompt.
    anchor_rewards: of all anchor samples.
    winners: the best of the first n of these.
    anchor_log_probs: of `answers`.
    """

    key: Key[Array, ""]
    answers: Answers
    rewards: Rewards
    anchor_rewards: Float[Array, "prompts anchor_samples"]
    winners: Winners
    anchor_log_probs: LogProbs


def draw(
    policy: Policy,
    reward: Reward,
    n: int | Float[Array, ""],
    num_anchor_samples: int,
    state: PolicyState,
    prompts: Prompts,
) -> Draws:
    """One answer of the policy and some of the anchor to each prompt."""
    key, policy_key, anchor_key = jax.random.split(state.key, 3)
    answers, _ = policy.sample(state.weights, prompts, policy_key, 1)
    of_anchor = policy.read(state.anchor, prompts)
    anchor_answers, _ = policy.sample(state.anchor, of_anchor, anchor_key, num_anchor_samples)
    rewards, anchor_rewards = score(reward, prompts, answers, anchor_answers)
    among_first = jnp.arange(num_anchor_samples, dtype=jnp.float32)[None, :] < n
    winners = best(anchor_answers, jnp.where(among_first, anchor_rewards, -jnp.inf))
    anchor_log_probs = policy.log_prob(state.anchor, of_anchor, answers)
    return Draws(key, answers, rewards, anchor_rewards, winners, anchor_log_probs)


def distillation_loss(
    policy: Policy,
    n: int | Float[Array, ""],
    beta: float,
    reference: Reference | None,
    prompts: Prompts,
    draws: Draws,
    log_quantiles: Rewards,
) -> Loss:
    """The loss of `bond_step` on `draws`, given log p_<= of the policy's answers."""
    generations = draws.rewards.size + draws.anchor_rewards.size

    def loss(weights: Weights) -> tuple[jax.Array, Metrics]:
        answers = jnp.concatenate([draws.answers, draws.winners], axis=1)
        both = policy.log_prob(weights, prompts, answers)
        log_probs, winner_log_probs = both[:, :1], both[:, 1:]
        detached = jax.lax.stop_gradient(log_probs)
        log_ratio = detached - draws.anchor_log_probs
        backward = policy_gradient(log_probs, (n - 1) * log_quantiles - log_ratio)
        metrics = sample_metrics(draws.rewards, log_ratio, draws.anchor_rewards, generations)
        metrics |= reference_metrics(reference, prompts, draws.answers, detached)
        metrics["log_quantile"] = jnp.mean(log_quantiles)
        return (1 - beta) * -jnp.mean(winner_log_probs) + beta * backward, metrics

    return loss


def _step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    anchor: AnchorUpdate,
    n: int | Float[Array, ""],
    k: int,
    beta: float,
    zero_rule: ZeroRule,
    reference: Reference | None,
    state: PolicyState,
    prompts: Prompts,
) -> tuple[PolicyState, Metrics]:
    drawn = max(n, k) if isinstance(n, int) else k
    draws = draw(policy, reward, n, drawn, state, prompts)
    log_quantiles = log_quantile(draws.rewards, draws.anchor_rewards[:, :k], zero_rule)
    loss = distillation_loss(policy, n, beta, reference, prompts, draws, log_quantiles)
    return advance(state, draws.key, optimizer, anchor, loss)
