"""How good a student is: on tokens, and against a distribution that is known.

Exposure bias is the second measured twice, on prefixes from the data and on the student's own.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from matchbook import divergences
from matchbook.distill.batch_losses import Loss, NextTokens, SoftTargets
from matchbook.distill.losses import SumAndCount
from matchbook.distill.models import Batch, PlainRows, Teacher, Weights, as_partial, head


def evaluate(
    graph: nnx.GraphDef, rows: Batch, batch_size: int
) -> Callable[[Any], dict[str, Float[Array, ""]]]:
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


def divergence_on(
    graph: nnx.GraphDef,
    weights: Weights,
    target: Teacher,
    rows: Batch,
    divergence: str = "backward_kl",
    beta: int | float | None = None,
) -> Float[Array, ""]:
    """The mean divergence between a target and a student along answers, in nats per token.

    On rows that the student wrote itself, from `write_answers`, the backward KL times the length is
    an estimate of the KL between whole answers, KL(student || target) given the prompts: the chain
    rule, each conditional exact. On rows that the target wrote, so is the forward KL.

    Args:
      graph: the student.
      weights: the student's.
      target: a teacher, or a language's own `oracle`.
      rows: with `where`, such as `AnswerRows`.
      divergence: a name that `divergences.by_name` knows.
      beta: where the divergence has one.
    """
    loss = SoftTargets(divergences.by_name(divergence, beta), answers_only=True)
    return _mean(graph, loss, weights, as_partial(target), rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mean(graph: nnx.GraphDef, loss: Loss, weights: Weights, target: Teacher, rows: Any) -> Array:
    total, count = loss(head(graph, weights, rows), rows, target)
    return total / count


@functools.partial(jax.jit, static_argnums=0)
def _mean_loss(graph: nnx.GraphDef, weights: Weights, batches: tuple[Array, ...]) -> Array:
    def one(batch: tuple[Array, ...]) -> SumAndCount:
        rows = PlainRows(*batch)
        return NextTokens()(head(graph, weights, rows), rows, None)

    total, count = jax.lax.map(one, batches)
    return total.sum() / count.sum()
