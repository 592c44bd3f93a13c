"""Reward models: learned from preferences, or from which answer belongs to which prompt.

BOND takes its reward model as given: for XSum one of entailment (section 4), which says whether a
text supports its summary. `matching_step` trains such a one without any labels: a prompt's own
answer is supported, those of the batch's other prompts are not. The model is a `scalar_head`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from matchbook.bond.policies import Answers, Prompts, Weights
from matchbook.bond.scalar_head import ScalarModel

Scores = Float[Array, "prompts answers"]
Metrics = dict[str, Array]
Step = Callable[[Any, Any], tuple[Any, Metrics]]


class RewardState(NamedTuple):
    """What a step changes."""

    weights: Weights
    optimizer: Any  # optax.OptState


def reward_state(weights: Weights, optimizer: optax.GradientTransformation) -> RewardState:
    """The state before the first step; weights such as `scalar_head.head_on_trunk` makes."""
    return RewardState(weights, optimizer.init(weights))


def bradley_terry_loss(chosen: Scores, rejected: Scores) -> Float[Array, ""]:
    """Mean of -log P(chosen wins), in nats, where P is a sigmoid of the difference of scores."""
    return -jnp.mean(jax.nn.log_sigmoid(chosen - rejected))


def entailment_loss(own: Scores, others: Float[Array, "prompts others"]) -> Float[Array, ""]:
    """Binary cross-entropy, in nats, of scores as logits of "this answer belongs to this prompt".

    A prompt's own answer and all of the others together weigh the same.
    """
    return -(jnp.mean(jax.nn.log_sigmoid(own)) + jnp.mean(jax.nn.log_sigmoid(-others))) / 2


def mismatched(
    answers: Int[Array, "prompts *answer"], number: int
) -> Int[Array, "prompts number *answer"]:
    """For each prompt the answers of the `number` prompts before it in the batch.

    Raises:
      ValueError: no more prompts than that.
    """
    if not 1 <= number < len(answers):
        raise ValueError(
            f"expected 1 to {len(answers) - 1} other answers in a batch of {len(answers)} prompts, "
            f"got {number}"
        )
    return jnp.stack([jnp.roll(answers, i, axis=0) for i in range(1, number + 1)], axis=1)


def preference_step(model: ScalarModel, optimizer: optax.GradientTransformation) -> Step:
    """A step on Bradley-Terry; a batch is ``(prompts, chosen, rejected)``.

    Chosen and rejected answers are ``[prompts, time]``. Metrics: ``loss``; ``accuracy``, the share
    of pairs in the right order, ties counting half; ``gradient_norm``.
    """

    def compared(weights: Weights, batch: tuple[Prompts, Answers, Answers]) -> Any:
        prompts, chosen, rejected = batch
        scores = model(weights, prompts, jnp.stack([chosen, rejected], axis=1))
        return bradley_terry_loss(scores[:, :1], scores[:, 1:]), scores

    return functools.partial(_step, compared, optimizer)


def matching_step(
    model: ScalarModel, optimizer: optax.GradientTransformation, mismatches: int = 1
) -> Step:
    """A step on `entailment_loss`; a batch is ``(prompts, answers)``, answers ``[prompts, time]``.

    Args:
      model: from `scalar_head`.
      optimizer: of optax.
      mismatches: answers of other prompts that each prompt is shown.

    Metrics as in `preference_step`, the pairs being of an own answer and another prompt's.
    """

    def compared(weights: Weights, batch: tuple[Prompts, Answers]) -> Any:
        prompts, answers = batch
        shown = jnp.concatenate([answers[:, None], mismatched(answers, mismatches)], axis=1)
        scores = model(weights, prompts, shown)
        return entailment_loss(scores[:, :1], scores[:, 1:]), scores

    return functools.partial(_step, compared, optimizer)


def _step(
    compared: Callable[[Weights, Any], tuple[Array, Scores]],
    optimizer: optax.GradientTransformation,
    state: RewardState,
    batch: Any,
) -> tuple[RewardState, Metrics]:
    """One update; the first column of the scores is to be above all others."""
    value_and_grad = jax.value_and_grad(compared, has_aux=True)
    (loss, scores), gradients = value_and_grad(state.weights, batch)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.weights)
    weights: Any = optax.apply_updates(state.weights, updates)
    metrics = {"loss": loss, "accuracy": wins(scores[:, :1], scores[:, 1:])}
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    return RewardState(weights, optimizer_state), metrics


def wins(
    scores: Float[Array, "prompts ours"], against: Float[Array, "prompts others"]
) -> Float[Array, ""]:
    """Share of a prompt's pairs in which ours is above the other, ties counting half."""
    ours, others = scores[:, :, None], against[:, None, :]
    above, equal = (ours > others).astype(jnp.float32), (ours == others).astype(jnp.float32)
    return jnp.mean(above + 0.5 * equal)
