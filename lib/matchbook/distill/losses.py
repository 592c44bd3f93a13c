"""The two losses of Gemma 2's section 3: next token, and the teacher's whole distribution.

All return a float32 (sum, count) over the positions that have a target, in nats; divide once, at
the end, so that padding, packing and accumulation cannot bias a mean. Logits are soft-capped and
whole here; `chunked` has the same losses from hidden states, for vocabularies where they are large.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from matchbook import divergences

Logits = Float[Array, "batch time vocab"]
Where = Bool[Array, "batch time"]
SumAndCount = tuple[Float[Array, ""], Float[Array, ""]]


def next_token_targets(
    tokens: Int[Array, "batch time"], segments: Int[Array, "batch time"]
) -> tuple[Int[Array, "batch time"], Where]:
    """What each position must predict, and where there is anything to predict.

    The target is the next token of the row. There is none at the end of a row, at padding (segment
    0), and where the next token belongs to another document.
    """
    targets = jnp.roll(tokens, -1, axis=1)
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
    return targets, jnp.pad(same, ((0, 0), (0, 1)))


def next_token_loss(logits: Logits, targets: Int[Array, "batch time"], where: Where) -> SumAndCount:
    """``-log p_S(target)``: training from scratch. A target outside the vocabulary gives NaN."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    picked = jnp.take_along_axis(log_probs, targets[..., None], axis=-1, mode="fill")
    return divergences.sum_and_count(-picked[..., 0], where)


def soft_target_loss(
    logits: Logits, teacher_logits: Logits, where: Where, temperature: int | float = 1.0
) -> SumAndCount:
    """``-sum_x P_T(x) log P_S(x)``: the paper's distillation loss, cross-entropy to soft targets.

    Its gradient is that of the forward KL; no gradient reaches the teacher.

    Args:
      logits: the student's.
      teacher_logits: the teacher's, over the same vocabulary.
      where: positions that count.
      temperature: divides the logits of both; the paper reports none, so 1. There is no factor
        temperature^2: at temperature 2 gradients are about a quarter.

    Raises:
      ValueError: a temperature that is not positive.
    """
    target, model = _log_probs(logits, teacher_logits, temperature)
    return divergences.sum_and_count(divergences.cross_entropy(target, model), where)


def forward_kl_loss(
    logits: Logits, teacher_logits: Logits, where: Where, temperature: int | float = 1.0
) -> SumAndCount:
    """``KL(P_T || P_S)``: `soft_target_loss` less the teacher's entropy, so 0 at best."""
    target, model = _log_probs(logits, teacher_logits, temperature)
    return divergences.sum_and_count(divergences.forward_kl(target, model), where)


def _log_probs(
    logits: Logits, teacher_logits: Logits, temperature: int | float
) -> tuple[Logits, Logits]:
    """Log-probabilities of teacher and student."""
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature}")

    def tempered(values: Logits) -> Logits:
        return jax.nn.log_softmax(values.astype(jnp.float32) / temperature)

    return tempered(jax.lax.stop_gradient(teacher_logits)), tempered(logits)
