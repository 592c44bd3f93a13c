"""What a training step minimises, as a function of the student's head, the batch and the teacher.

Each is a NamedTuple of its settings: equal settings are one loss, which compiles once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Int

from matchbook.distill import losses
from matchbook.distill.chunked import (
    Divergence,
    chunked_distillation_loss,
    chunked_next_token_loss,
)
from matchbook.distill.models import Batch, Head, Teacher, as_head
from matchbook.distill.teacher_cache import top_k_loss

Loss = Callable[[Head, Any, Any], losses.SumAndCount]  # of the student, the batch and the teacher


class NextTokens(NamedTuple):
    """The loss of `pretrain_step` and, on answers alone, of `sft_step`."""

    chunk_size: int | None = None
    answers_only: bool = False

    def __call__(self, student: Head, batch: Batch, teacher: None) -> losses.SumAndCount:
        targets, where = counted(batch, self.answers_only)
        hidden, table, softcap = student
        options = {"softcap": softcap, "chunk_size": self.chunk_size}
        return chunked_next_token_loss(hidden, table, targets, where, **options)


class SoftTargets(NamedTuple):
    """The loss of `distill_step` and, on answers alone, of `on_policy_step`."""

    divergence: Divergence
    temperature: int | float = 1.0
    hard_weight: int | float = 0.0
    chunk_size: int | None = None
    answers_only: bool = False

    def __call__(self, student: Head, batch: Batch, teacher: Teacher) -> losses.SumAndCount:
        targets, where = counted(batch, self.answers_only)
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


class CachedTargets(NamedTuple):
    """The loss of `offline_step`: the batch is of `CachedRows`, and there is no teacher."""

    divergence: Divergence
    chunk_size: int | None = None

    def __call__(self, student: Head, batch: Any, teacher: None) -> losses.SumAndCount:
        _, where = counted(batch, answers_only=False)
        hidden, table, softcap = student
        options = {"softcap": softcap, "chunk_size": self.chunk_size}
        return top_k_loss(hidden, table, batch.cached, where, self.divergence, **options)


def counted(
    batch: Any, answers_only: bool
) -> tuple[Int[Array, "batch time"], Bool[Array, "batch time"]]:
    """The targets of a batch, and which of them count: all, or those of its `where` alone.

    Raises:
      ValueError: answers are asked for, and the batch does not say which they are.
    """
    targets, where = losses.next_token_targets(batch.tokens, batch.segments)
    if not answers_only:
        return targets, where
    if not hasattr(batch, "where"):
        raise ValueError(
            "batch: expected rows with `where`, such as chat_rows makes, as only answers are "
            f"learned; got {type(batch).__name__}"
        )
    return targets, where & batch.where
