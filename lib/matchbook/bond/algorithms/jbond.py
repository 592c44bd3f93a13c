"""J-BOND (BOND, Algorithm 2): one policy sample, two anchor samples, a moving anchor.

Policy and anchor read each prompt once: what they sample from it, and all that they say of answers
to it, begins there, and so does the gradient. Hence the policy samples inside of the loss.

Unusual: the KL regularisation pulls *towards* the anchor. The sign printed in the paper pushes away
from it, against its own Eq. 19; it is here as an option only to show what it does.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from matchbook.bond.algorithms.anchors import AnchorUpdate
from matchbook.bond.algorithms.scoring import (
    Reference,
    Reward,
    Scalar,
    best,
    check_beta,
    policy_gradient,
    reference_metrics,
    sample_metrics,
    score,
)
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step, advance
from matchbook.bond.jbond import PENALTY
from matchbook.bond.monte_carlo import worse_than_all
from matchbook.bond.policies import Policy, Prompts, Weights, read_and_sample


def jbond_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    anchor: AnchorUpdate,
    *,
    beta: int | float = 0.5,
    gamma: Scalar = 0.0,
    reference: Reference | None = None,
    printed_sign: bool = False,
) -> Step:
    """A step of J-BOND; three generations a prompt, and the batch is prompts alone.

    Descends ``(1 - beta) * forward + beta * backward + gamma * KL(policy || anchor)``: `forward` is
    fine-tuning on the better of the two anchor samples; `backward` a policy gradient with the
    return ``r_J - (log pi - log anchor)``, less the mean return of the batch's other answers, where
    r_J is -log 16 for being strictly worse than both anchor samples (Eq. 17).

    Args:
      policy, optimizer, reward: rewards are computed inside the compiled step.
      anchor: ``anchors.ema(0.02)`` in Figure 7, ``anchors.hard(50)`` in Figure 5's ablation.
      beta: weight of the backward KL; the paper uses 0.5.
      gamma: weight of the extra KL to the anchor, Eq. 19; as an array it may be traced.
      reference: see `policies.frozen`; where given, ``kl_to_reference`` is logged too.
      printed_sign: an erratum: the sign of Algorithm 2's G_Reg as printed.

    Metrics beside the common ones: ``penalty_rate``, the share of answers worse than both.

    Raises:
      ValueError: `beta` outside [0, 1], or a negative `gamma`.
    """
    check_beta(beta)
    if not isinstance(gamma, jax.Array) and gamma < 0:
        raise ValueError(f"gamma weighs a KL: expected gamma >= 0, got {gamma}")
    pull = -gamma if printed_sign else gamma
    return functools.partial(_step, policy, optimizer, reward, anchor, float(beta), pull, reference)


def _step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    anchor: AnchorUpdate,
    beta: float,
    pull: Scalar,
    reference: Reference | None,
    state: PolicyState,
    prompts: Prompts,
) -> tuple[PolicyState, Metrics]:
    key, policy_key, anchor_key = jax.random.split(state.key, 3)
    of_anchor = policy.read(state.anchor, prompts)
    anchor_answers, _ = policy.sample(state.anchor, of_anchor, anchor_key, 2)

    def loss(weights: Weights) -> tuple[jax.Array, Metrics]:
        of_policy, answers = read_and_sample(policy, weights, prompts, policy_key, 1)
        rewards, anchor_rewards = score(reward, prompts, answers, anchor_answers)
        winners = best(anchor_answers, anchor_rewards)
        penalised = worse_than_all(rewards, anchor_rewards)
        anchor_log_probs = policy.log_prob(state.anchor, of_anchor, answers)
        both = policy.log_prob(weights, of_policy, jnp.concatenate([answers, winners], axis=1))
        log_probs, winner_log_probs = both[:, :1], both[:, 1:]
        log_ratio = jax.lax.stop_gradient(log_probs) - anchor_log_probs
        returns = jnp.where(penalised, PENALTY, 0.0) - log_ratio
        forward = -jnp.mean(winner_log_probs)
        backward = policy_gradient(log_probs, returns)
        regularisation = jnp.mean(log_probs * log_ratio)
        metrics = sample_metrics(rewards, log_ratio, anchor_rewards, 3 * rewards.size)
        metrics |= reference_metrics(reference, prompts, answers, jax.lax.stop_gradient(log_probs))
        metrics["penalty_rate"] = jnp.mean(penalised.astype(jnp.float32))
        return (1 - beta) * forward + beta * backward + pull * regularisation, metrics

    return advance(state, key, optimizer, anchor, loss)
