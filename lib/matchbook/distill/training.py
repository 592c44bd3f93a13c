"""Training steps: from scratch, and distilled, over the same batches (Gemma 2, Table 6).

Each maker returns a pure `step(state, batch) -> state, metrics` for `lab.fit`. Unusual: the state
is nested dicts of arrays and holds the student alone; the teacher's arrays travel with the step,
as arguments of the compiled program and no constants in it; makers called again with equal
arguments return equal steps, so nothing compiles twice; losses never hold whole logits.
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
from matchbook.distill import losses
from matchbook.distill.chunked import (
    Divergence,
    chunked_distillation_loss,
    chunked_next_token_loss,
)
from matchbook.distill.models import Batch, Head, Teacher, Weights, as_head, head

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
    """The state before the first step."""
    return TrainState(weights, optimizer.init(weights))


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
    return functools.partial(_step, graph, optimizer, _NextTokens(chunk_size))


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
    loss = _SoftTargets(chosen, temperature, hard_weight, chunk_size)
    bound = teacher if isinstance(teacher, jax.tree_util.Partial) else _partial(teacher)
    hashable: Any = optimizer
    return jax.tree_util.Partial(_distiller(graph, hashable, loss), bound)


def evaluate(
    graph: nnx.GraphDef, rows: Batch, batch_size: int
) -> Callable[[TrainState], dict[str, Float[Array, ""]]]:
    """A function from a state to the mean next-token loss over all rows, in nats per token.

    The last batch is filled up with padding, which does not count.

    Raises:
      ValueError: no row.
    """
    num_rows, time = rows.tokens.shape
    if num_rows == 0:
        raise ValueError("rows: expected at least one row to evaluate on, got none")
    batches = tuple(
        jnp.pad(jnp.asarray(values), ((0, -num_rows % batch_size), (0, 0))).reshape(
            -1, batch_size, time
        )
        for values in (rows.tokens, rows.positions, rows.segments)
    )
    return lambda state: {"validation_loss": _mean_loss(graph, state.weights, batches)}


@functools.partial(jax.jit, static_argnums=0)
def _mean_loss(graph: nnx.GraphDef, weights: Weights, batches: tuple[Array, ...]) -> Array:
    def one(batch: tuple[Array, ...]) -> losses.SumAndCount:
        rows = _Rows(*batch)
        return _NextTokens(None)(head(graph, weights, rows), rows, None)

    total, count = jax.lax.map(one, batches)
    return total.sum() / count.sum()


class _Rows(NamedTuple):
    tokens: Array
    positions: Array
    segments: Array


Loss = Callable[[Head, Any, Any], losses.SumAndCount]  # of the student, the batch and the teacher


class _NextTokens(NamedTuple):
    """The loss of `pretrain_step`."""

    chunk_size: int | None

    def __call__(self, student: Head, batch: Batch, teacher: None) -> losses.SumAndCount:
        targets, where = losses.next_token_targets(batch.tokens, batch.segments)
        hidden, table, softcap = student
        options = {"softcap": softcap, "chunk_size": self.chunk_size}
        return chunked_next_token_loss(hidden, table, targets, where, **options)


class _SoftTargets(NamedTuple):
    """The loss of `distill_step`; equal to another one of the same settings."""

    divergence: Divergence
    temperature: int | float
    hard_weight: int | float
    chunk_size: int | None

    def __call__(self, student: Head, batch: Batch, teacher: Teacher) -> losses.SumAndCount:
        targets, where = losses.next_token_targets(batch.tokens, batch.segments)
        taught = as_head(teacher(batch))
        return chunked_distillation_loss(
            student.hidden,
            student.table,
            taught.hidden,
            taught.table,
            where,
            self.divergence,
            softcap=student.softcap,
            teacher_softcap=taught.softcap,
            temperature=self.temperature,
            targets=targets if self.hard_weight else None,
            hard_weight=self.hard_weight,
            chunk_size=self.chunk_size,
        )


@functools.lru_cache
def _distiller(graph: nnx.GraphDef, optimizer: optax.GradientTransformation, loss: Loss) -> Any:
    def step(teacher: Teacher, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return _step(graph, optimizer, loss, state, batch, teacher)

    return step


@functools.lru_cache
def _partial(teacher: Teacher) -> jax.tree_util.Partial:
    return jax.tree_util.Partial(teacher)


def _step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    state: TrainState,
    batch: Batch,
    teacher: Teacher | None = None,
) -> tuple[TrainState, Metrics]:
    def mean_loss(weights: Weights) -> Float[Array, ""]:
        total, count = loss(head(graph, weights, batch), batch, teacher)
        return total / jnp.maximum(count, 1)

    value, gradients = jax.value_and_grad(mean_loss)(state.weights)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.weights)
    weights: Any = optax.apply_updates(state.weights, updates)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
    return TrainState(weights, optimizer_state), metrics


def _decays(weights: Weights) -> Any:
    """Every weight decays but the norms' scales, which are stored around zero."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any(getattr(key, "key", None) == "scale" for key in path), weights
    )
