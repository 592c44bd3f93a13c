"""Losses straight from hidden states: no [tokens, vocab] array of either model is ever whole.

Distillation (Gemma 2, section 3) with any of the divergences, mixed with hard labels if wished, and
next-token training. Student and teacher may differ in width and depth, not in vocabulary.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from matchbook import divergences
from matchbook.distill.chunks import SumAndCount, project_to_vocab, sum_over_tokens
from matchbook.gemma.layers import soft_cap

Divergence = Callable[[Array, Array], Array]  # of target and model log-probabilities


def chunked_distillation_loss(
    hidden: Float[Array, "*batch embed"],
    table: Float[Array, "vocab embed"],
    teacher_hidden: Float[Array, "*batch teacher_embed"],
    teacher_table: Float[Array, "vocab teacher_embed"],
    where: Bool[Array, "*batch"],
    divergence: Divergence = divergences.cross_entropy,
    *,
    softcap: int | float | None,
    teacher_softcap: int | float | None,
    temperature: int | float = 1.0,
    targets: Int[Array, "*batch"] | None = None,
    hard_weight: int | float = 0.0,
    chunk_size: int | None = None,
) -> SumAndCount:
    """Divergence between the teacher's next-token distribution and the student's, in nats.

    ``(1 - hard_weight) * D(P_T || P_S) - hard_weight * log p_S(target)`` at each position, where
    P is the softmax of soft-capped logits divided by `temperature`. The loss is not multiplied by
    temperature^2: at temperature 2 its gradients are about a quarter. Hard labels are scored at
    temperature 1. No gradient reaches the teacher.

    Args:
      hidden: the student's stream after its final norm, such as `Transformer.hidden` returns.
        Products are computed in its dtype and accumulated in float32.
      table: the student's embedding table, which is also its output projection.
      teacher_hidden: the teacher's stream, of another width if need be.
      teacher_table: the teacher's table, over the same vocabulary.
      where: positions that count; what is at others may be anything.
      divergence: of the target's and the model's log-probabilities, as in `divergences`; the
        default is the paper's loss. The same function object again means no new compilation:
        `divergences.by_name` gives it.
      softcap: the student's final soft-cap; None for none.
      teacher_softcap: the teacher's.
      temperature: divides the capped logits of both; the paper reports none, so 1.
      targets: the tokens that follow; needed where `hard_weight` is not 0. An id outside the
        vocabulary gives NaN.
      hard_weight: share of the next-token loss.
      chunk_size: most tokens whose logits exist at a time; by default as many as have
        `CHUNK_LOGITS` of them. About 5 float32 arrays of [chunk_size, vocab] are alive at once.

    Returns:
      The float32 sum over the positions that count, and their number.

    Raises:
      ValueError: a temperature that is not positive, a weight outside [0, 1], a weight without
        targets, or a chunk without tokens.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}")
    if not 0 <= hard_weight <= 1:
        raise ValueError(f"hard_weight: expected a share in [0, 1], got {hard_weight}")
    if targets is None and hard_weight:
        raise ValueError(f"targets: expected token ids, as hard_weight is {hard_weight}, got None")
    rows = functools.partial(
        _distillation_rows, divergence, teacher_softcap, temperature, hard_weight
    )
    return sum_over_tokens(
        rows,
        hidden,
        table,
        where,
        softcap=softcap,
        per_token=(teacher_hidden, targets if hard_weight else None),
        shared=teacher_table.astype(teacher_hidden.dtype),
        chunk_size=chunk_size,
    )


def chunked_next_token_loss(
    hidden: Float[Array, "*batch embed"],
    table: Float[Array, "vocab embed"],
    targets: Int[Array, "*batch"],
    where: Bool[Array, "*batch"],
    *,
    softcap: int | float | None,
    chunk_size: int | None = None,
) -> SumAndCount:
    """``-log p_S(target)``: `losses.next_token_loss` from hidden states.

    Arguments, result and errors as in `chunked_distillation_loss`.
    """
    return sum_over_tokens(
        _next_token_rows,
        hidden,
        table,
        where,
        softcap=softcap,
        per_token=targets,
        shared=None,
        chunk_size=chunk_size,
    )


def _distillation_rows(
    divergence: Divergence,
    teacher_softcap: int | float | None,
    temperature: int | float,
    hard_weight: int | float,
    logits: Array,
    per_token: tuple[Array, Array | None],
    teacher_table: Array,
) -> Array:
    teacher_hidden, targets = per_token
    teacher_logits = soft_cap(project_to_vocab(teacher_hidden, teacher_table), teacher_softcap)
    target_log_probs = jax.nn.log_softmax(teacher_logits / temperature)
    soft = divergence(target_log_probs, jax.nn.log_softmax(logits / temperature))
    if targets is None:
        return soft
    return (1 - hard_weight) * soft + hard_weight * _next_token_rows(logits, targets, None)


def _next_token_rows(logits: Array, targets: Array, _: None) -> Array:
    picked = jnp.take_along_axis(logits, targets[:, None], axis=-1, mode="fill")[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked
