"""BOND with a learned quantile in place of a counted one: appendix B.1, Figure 9.

The quantile model trains beside the policy, on the policy's own answers, each compared with one
anchor sample. Unusual: that sample is one of the N that the winner is chosen from, so that a step
costs N + 1 generations a prompt.
"""

import functools
from typing import Any, NamedTuple

import jax
import optax

from matchbook.bond.algorithms.anchors import AnchorUpdate, fixed
from matchbook.bond.algorithms.bond import distillation_loss, draw
from matchbook.bond.algorithms.scoring import Reference, Reward, check_beta, check_samples
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step, advance, policy_state
from matchbook.bond.learned_quantile import QuantileModel, log_quantile, quantile_loss
from matchbook.bond.policies import Policy, Prompts, Weights


class LearnedBondState(NamedTuple):
    """The policy's state, and the quantile model's weights with their optimizer."""

    policy: PolicyState
    quantile: Weights
    quantile_optimizer: Any

    @property
    def weights(self) -> Weights:
        """The policy's."""
        return self.policy.weights


def learned_bond_state(
    weights: Weights,
    quantile: Weights,
    optimizer: optax.GradientTransformation,
    quantile_optimizer: optax.GradientTransformation,
    seed: int,
) -> LearnedBondState:
    """The state before the first update."""
    policy = policy_state(weights, optimizer, seed)
    return LearnedBondState(policy, quantile, quantile_optimizer.init(quantile))


def learned_bond_step(
    policy: Policy,
    quantile_model: QuantileModel,
    optimizer: optax.GradientTransformation,
    quantile_optimizer: optax.GradientTransformation,
    reward: Reward,
    *,
    n: int,
    beta: int | float = 0.5,
    anchor: AnchorUpdate = fixed,
    reference: Reference | None = None,
) -> Step:
    """`bond_step` with ``log p_<=`` from a quantile model, as it is before the step's own update.

    Args: as in `bond_step`; the quantile model as in `learned_quantile`. Metrics beside its:
    ``quantile_loss``, the binary cross-entropy in nats.

    Raises:
      ValueError: `n` below 2, `beta` outside [0, 1].
    """
    check_beta(beta)
    check_samples("n", n, 2)
    return functools.partial(
        _step,
        policy,
        quantile_model,
        optimizer,
        quantile_optimizer,
        reward,
        anchor,
        n,
        float(beta),
        reference,
    )


def _step(
    policy: Policy,
    quantile_model: QuantileModel,
    optimizer: optax.GradientTransformation,
    quantile_optimizer: optax.GradientTransformation,
    reward: Reward,
    anchor: AnchorUpdate,
    n: int,
    beta: float,
    reference: Reference | None,
    state: LearnedBondState,
    prompts: Prompts,
) -> tuple[LearnedBondState, Metrics]:
    draws = draw(policy, reward, n, n, state.policy, prompts)

    def model_loss(weights: Weights) -> tuple[jax.Array, jax.Array]:
        logits = quantile_model(weights, prompts, draws.answers)
        return quantile_loss(logits, draws.anchor_rewards[:, :1] <= draws.rewards), logits

    (value, logits), gradients = jax.value_and_grad(model_loss, has_aux=True)(state.quantile)
    loss = distillation_loss(policy, n, beta, reference, prompts, draws, log_quantile(logits))
    new_policy, metrics = advance(state.policy, draws.key, optimizer, anchor, loss)
    updates, quantile_state = quantile_optimizer.update(
        gradients, state.quantile_optimizer, state.quantile
    )
    quantile: Any = optax.apply_updates(state.quantile, updates)
    return LearnedBondState(new_policy, quantile, quantile_state), metrics | {
        "quantile_loss": value
    }
