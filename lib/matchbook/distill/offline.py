"""Offline distillation: the teacher answers once, into a file, and students train from that.

    key = teacher_cache.content_key(rows, config, weights, k)
    dtype = teacher_cache.row_dtype(k, config.vocab_size)
    with corpus.TokenStoreWriter(folder, key, dtype) as store:
        distill.write_cache(teacher, rows, k, store, batch_size=8)
    stored = corpus.read_token_store(folder, key, dtype, rows.tokens.size)
    stream = corpus.batches(distill.cached_rows(rows, stored), batch_size=8, seed=0)

Unusual: what is trained on is a true lower bound of the full divergence (see `teacher_cache`). A
kill while the file is written costs one append; the next run goes on from there.
"""

import functools
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Integer

from matchbook import divergences
from matchbook.distill.batch_losses import CachedTargets
from matchbook.distill.models import Batch, PlainRows, Teacher, as_head, as_partial
from matchbook.distill.teacher_cache import TopK, to_rows, top_k
from matchbook.distill.training import Step, update


@runtime_checkable
class Store(Protocol):
    """What answers are appended to, such as `corpus.TokenStoreWriter`: one for each position."""

    rows: int

    def append(self, rows: np.ndarray) -> None: ...


class CachedRows(NamedTuple):
    """Rows with the teacher's answer at each position: a `Batch`, and a `TopK` in its parts."""

    tokens: Int[Array | np.ndarray, "rows time"]
    positions: Int[Array | np.ndarray, "rows time"]
    segments: Int[Array | np.ndarray, "rows time"]
    ids: Integer[Array | np.ndarray, "rows time k"]
    logits: Float[Array | np.ndarray, "rows time k"]
    log_rest: Float[Array | np.ndarray, "rows time"]

    @property
    def cached(self) -> TopK:
        return TopK(self.ids, self.logits, self.log_rest)


def write_cache(teacher: Teacher, rows: Batch, k: int, store: Store, *, batch_size: int) -> None:
    """Append the teacher's `k` best tokens at every position of `rows` that `store` lacks.

    Args:
      teacher: from `frozen_teacher`, or any function from a batch to logits.
      rows: what students will read; the store's key should hold their digest.
      k: tokens kept for each position.
      store: open for appending; what it holds is of `teacher_cache.row_dtype`.
      batch_size: rows answered, and then appended, at a time.

    Raises:
      ValueError: the store does not end where a row ends, or goes beyond the last.
    """
    num_rows, time = rows.tokens.shape
    if store.rows % time or store.rows > num_rows * time:
        raise ValueError(
            f"store: expected answers to whole rows of {time} positions, {num_rows} at most, got "
            f"{store.rows} answers: was it written for other rows?"
        )
    for start in range(store.rows // time, num_rows, batch_size):
        count = min(batch_size, num_rows - start)
        batch = _filled(rows, start, count, batch_size)
        answers = _answers(k, as_partial(teacher), batch)
        answers = jax.tree.map(lambda x, count=count: x[:count], answers)
        store.append(to_rows(answers, _vocab_size(teacher, batch)))


def cached_rows(rows: Batch, stored: np.ndarray) -> CachedRows:
    """Rows beside what `corpus.read_token_store` read for them: mapped, until a batch is taken.

    Raises:
      ValueError: another number of answers than the rows have positions.
    """
    shape = rows.tokens.shape
    if stored.shape != (rows.tokens.size,):
        raise ValueError(
            f"stored: expected an answer for each of {shape[0]} x {shape[1]} positions, got "
            f"shape {stored.shape}"
        )
    answers = stored.reshape(shape)
    parts = (np.asarray(x) for x in (rows.tokens, rows.positions, rows.segments))
    return CachedRows(*parts, answers["ids"], answers["logits"], answers["log_rest"])


def offline_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    divergence: str = "forward_kl",
    beta: int | float | None = None,
    chunk_size: int | None = None,
) -> Step:
    """Training on cached answers; a batch is of `CachedRows`.

    Args:
      graph: the student, from `new_model`.
      optimizer: such as `adamw`.
      divergence: a name that `divergences.by_name` knows, over the kept tokens and the bucket. At
        temperature 1: what was dropped cannot be heated.
      beta: where the divergence has one.
      chunk_size: as in `pretrain_step`.
    """
    loss = CachedTargets(divergences.by_name(divergence, beta), chunk_size)
    return functools.partial(update, graph, optimizer, loss)


@functools.partial(jax.jit, static_argnums=0)
def _answers(k: int, teacher: jax.tree_util.Partial, batch: Batch) -> TopK:
    hidden, table, softcap = as_head(teacher(batch))
    return top_k(hidden, table, k, softcap=softcap)


def _vocab_size(teacher: Teacher, batch: Batch) -> int:
    return jax.eval_shape(lambda batch: as_head(teacher(batch)).table, batch).shape[0]


def _filled(rows: Batch, start: int, count: int, batch_size: int) -> PlainRows:
    """So many rows from `start` on, and padding behind them: one shape for all batches."""

    def part(values: Array | np.ndarray) -> Array:
        taken = jnp.asarray(values[start : start + count])
        return jnp.pad(taken, ((0, batch_size - count), (0, 0)))

    return PlainRows(part(rows.tokens), part(rows.positions), part(rows.segments))
