"""Training steps: from scratch, distilled, and on answers only (Gemma 2, Table 6, section 4).

Each maker returns a pure `step(state, batch) -> state, metrics` for `lab.fit`. Unusual: the state
is nested dicts of arrays and holds the student alone; the teacher's arrays travel with the step,
as arguments of the compiled program and no constants in it; makers called again with equal
arguments return equal steps, so nothing compiles twice; losses never hold whole logits. Mixed
precision is the model's: `new_model(config, seed, dtype=jnp.bfloat16)` computes in bfloat16, while
weights, updates and the optimizer's state are float32.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from matchbook import divergences
from matchbook.distill.batch_losses import Loss, NextTokens, SoftTargets
from matchbook.distill.models import Batch, Teacher, Weights, as_partial, head

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """What a step changes."""

    weights: Weights
    optimizer: Any  # optax.OptState


Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


@functools.lru_cache
def adamw(
    learning_rate: float,
    num_steps: int,
    *,
    warmup: float = 0.05,
    weight_decay: float = 0.1,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW: linear warm-up, then a cosine down to a tenth; clipped; norm scales do not decay.

    The report is silent on all of this; these are common choices for small language models.

    Args:
      learning_rate: at the peak.
      num_steps: length of the schedule.
      warmup: share of the steps until the peak.
      weight_decay: per step, times the learning rate.
      clip_norm: gradients of a larger global norm are scaled down to it.
    """
    rising = max(1, round(warmup * num_steps))
    falling = max(1, num_steps - rising)

    def schedule(count: ArrayLike) -> Array:
        done = jnp.asarray(count, jnp.float32)
        angle = jnp.pi * jnp.clip((done - rising) / falling, 0.0, 1.0)
        return learning_rate * jnp.minimum(done / rising, 0.55 + 0.45 * jnp.cos(angle))

    chain = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=weight_decay, mask=_decays),
    )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            return chain.update(updates, state, params, **extra)

    return optax.GradientTransformation(chain.init, update)


def train_state(weights: Weights, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step.

    Raises:
      ValueError: weights that are not float32.
    """
    check_masters(weights)
    return TrainState(weights, optimizer.init(weights))


def check_masters(weights: Weights) -> None:
    """Trained weights are float32, whatever is computed in: bfloat16 loses most small updates."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        if leaf.dtype != jnp.float32:
            raise ValueError(
                f"weights{jax.tree_util.keystr(path)}: expected float32, which updates are added "
                f"up in, got {leaf.dtype}: convert them, and let new_model or static_part have "
                "dtype=jnp.bfloat16 to compute in"
            )


def pretrain_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    chunk_size: int | None = None,
) -> Step:
    """Next-token training from scratch: the loss is the mean over the batch's targets.

    `chunk_size` is `chunked_next_token_loss`'s, over all devices: with data on many, give each of
    them as many tokens as one alone would have.
    """
    return functools.partial(update, graph, optimizer, NextTokens(chunk_size))


def sft_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    chunk_size: int | None = None,
) -> Step:
    """Supervised fine-tuning: next-token training whose loss is on answers only.

    A batch is of `AnswerRows`, such as `chat_rows` makes: the mean is over the targets that its
    `where` marks. Prompts are read, and never learned.
    """
    return functools.partial(update, graph, optimizer, NextTokens(chunk_size, answers_only=True))


def distill_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    teacher: Teacher,
    *,
    divergence: str = "cross_entropy",
    beta: int | float | None = None,
    temperature: int | float = 1.0,
    hard_weight: int | float = 0.0,
    chunk_size: int | None = None,
) -> Step:
    """Training on the teacher's distribution, at the positions where `pretrain_step` has targets.

    Args:
      graph: the student, from `new_model`.
      optimizer: such as `adamw`.
      teacher: from `frozen_teacher`, or any function from a batch to logits. Its arrays are no part
        of the state: neither donated nor checkpointed.
      divergence: a name that `divergences.by_name` knows; the paper's by default.
      beta: where the divergence has one.
      temperature: see `chunked_distillation_loss`.
      hard_weight: share of the next-token loss.
      chunk_size: as in `pretrain_step`.
    """
    chosen = divergences.by_name(divergence, beta)
    loss = SoftTargets(chosen, temperature, hard_weight, chunk_size)
    hashable: Any = optimizer
    return jax.tree_util.Partial(_distiller(graph, hashable, loss), as_partial(teacher))


def update(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    state: Any,
    batch: Any,
    teacher: Teacher | None = None,
) -> tuple[Any, Metrics]:
    """One step down the mean of a loss: of any state with `weights` and `optimizer`."""

    def mean_loss(weights: Weights) -> Float[Array, ""]:
        total, count = loss(head(graph, weights, batch), batch, teacher)
        return total / jnp.maximum(count, 1)

    value, gradients = jax.value_and_grad(mean_loss)(state.weights)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.weights)
    weights: Any = optax.apply_updates(state.weights, updates)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
    return state._replace(weights=weights, optimizer=optimizer_state), metrics


@functools.lru_cache
def _distiller(graph: nnx.GraphDef, optimizer: optax.GradientTransformation, loss: Loss) -> Any:
    def step(teacher: Teacher, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return update(graph, optimizer, loss, state, batch, teacher)

    return step


def _decays(weights: Weights) -> Any:
    """Every weight decays but the norms' scales, which are stored around zero."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any(getattr(key, "key", None) == "scale" for key in path), weights
    )
