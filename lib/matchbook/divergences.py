"""How far a model distribution is from its target: the idea that the three papers share.

Gemma 2 distils with the forward KL, BOND (Eq. 11) with Jeffreys, mixture-of-Gaussians critics with
the cross-entropy. Unusual here: outcomes of probability zero (log-probability -inf) are ordinary
input. They give 0, or +inf where the divergence truly is infinite, and never a NaN gradient.

    forward_kl     KL(target || model)   mean over the target: covers every mode, "zero-avoiding"
    backward_kl    KL(model || target)   mean over the model: picks modes, "zero-forcing"
    jeffreys       (1 - beta) * forward + beta * backward
    jensen_shannon both KLs to a mixture of the two: never infinite
    cross_entropy  forward KL + entropy of the target
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

__all__ = [
    "backward_kl",
    "by_name",
    "cross_entropy",
    "forward_kl",
    "jeffreys",
    "jensen_shannon",
    "sum_and_count",
]

LogProbs = Float[Array, "*batch outcomes"]
Where = Bool[Array, "*#batch #outcomes"] | None
PerExample = Float[Array, "*batch"]


def forward_kl(
    target_log_probs: LogProbs, model_log_probs: LogProbs, where: Where = None
) -> PerExample:
    """KL(target || model) in nats for each example.

    Args:
      target_log_probs: log-probabilities of the target, shape ``[*batch, outcomes]``; -inf is fine.
      model_log_probs: log-probabilities of the model, same shape.
      where: outcomes to include in the sum, broadcast to that shape. A mask ``[*batch, 1]`` drops
        whole examples (they get 0), one of ``[1, outcomes]`` drops outcomes of all of them, such as
        the padding rows of a vocabulary. Nothing is renormalised; what is dropped may be NaN.

    Returns:
      Shape ``[*batch]``, at least float32. +inf where the target has mass that the model lacks:
      such outcomes pass no gradient on.
    """
    return _mean_over_target(target_log_probs, model_log_probs, where, lambda t, m: t - m)


def backward_kl(
    target_log_probs: LogProbs, model_log_probs: LogProbs, where: Where = None
) -> PerExample:
    """KL(model || target) in nats for each example; arguments as in `forward_kl`.

    +inf where the model has mass that the target lacks.
    """
    return forward_kl(model_log_probs, target_log_probs, where)


def jeffreys(
    target_log_probs: LogProbs,
    model_log_probs: LogProbs,
    where: Where = None,
    *,
    beta: int | float,
) -> PerExample:
    """``(1 - beta) * KL(target || model) + beta * KL(model || target)``: BOND, Eq. 11.

    At ``beta=0`` and ``beta=1`` it *is* the forward or backward KL: the other one, weighed by 0,
    may be infinite. Other arguments as in `forward_kl`.

    Raises:
      ValueError: if `beta` is outside [0, 1].
    """
    if not 0 <= beta <= 1:
        raise ValueError(
            f"beta is the weight of the backward KL: expected 0 <= beta <= 1, got {beta}"
        )
    if beta == 0:
        return forward_kl(target_log_probs, model_log_probs, where)
    if beta == 1:
        return backward_kl(target_log_probs, model_log_probs, where)
    forward = forward_kl(target_log_probs, model_log_probs, where)
    return (1 - beta) * forward + beta * backward_kl(target_log_probs, model_log_probs, where)


def jensen_shannon(
    target_log_probs: LogProbs,
    model_log_probs: LogProbs,
    where: Where = None,
    *,
    beta: int | float,
) -> PerExample:
    """``beta * KL(target || mix) + (1 - beta) * KL(model || mix)``: GKD (2306.13649), Eq. 1.

    The mixture is ``beta * target + (1 - beta) * model``, so nothing is infinite. It vanishes at
    both ends of `beta`: divided by `beta` it tends to the forward KL as `beta` falls to 0, divided
    by ``1 - beta`` to the backward KL as it rises to 1. Other arguments as in `forward_kl`.

    Raises:
      ValueError: if `beta` is not between 0 and 1.
    """
    if not 0 < beta < 1:
        raise ValueError(
            f"beta is the target's share of the mixture: expected 0 < beta < 1, got {beta}; "
            "at the ends this divergence is 0: use forward_kl or backward_kl, its scaled limits"
        )
    target, model = _float32_pair(target_log_probs, model_log_probs)
    of_target = _kl_to_mixture(target, model, where, 1 - beta)
    return beta * of_target + (1 - beta) * _kl_to_mixture(model, target, where, beta)


def cross_entropy(
    target_log_probs: LogProbs, model_log_probs: LogProbs, where: Where = None
) -> PerExample:
    """``-sum(target * log model)`` in nats for each example; arguments as in `forward_kl`.

    Its gradient in the model is that of the forward KL: the target's entropy is a constant.
    """
    return _mean_over_target(target_log_probs, model_log_probs, where, lambda _, m: -m)


@functools.cache
def by_name(
    name: str, beta: int | float | None = None
) -> Callable[[LogProbs, LogProbs], PerExample]:
    """One of the divergences as a function of the two log-probabilities, `beta` bound.

    Called again with equal arguments it returns the same function, so that a loss made of it
    compiles once.

    Raises:
      ValueError: an unknown name, a divergence that needs `beta` without it, or one that has none
        with it.
    """
    plain = {"forward_kl": forward_kl, "backward_kl": backward_kl, "cross_entropy": cross_entropy}
    weighed = {"jeffreys": jeffreys, "jensen_shannon": jensen_shannon}
    if beta is None and name in plain:
        return plain[name]
    if beta is not None and name in weighed:
        return functools.partial(weighed[name], beta=beta)
    raise ValueError(
        "divergence: expected forward_kl, backward_kl or cross_entropy without beta, or jeffreys "
        f"or jensen_shannon with it, got {name!r} with beta={beta}"
    )


def sum_and_count(
    values: PerExample, where: Bool[Array, "*batch"] | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sum of the included examples and their number: a mean, before it is divided.

    Add both over micro-batches or devices and divide once, so that padding cannot bias the mean.
    """
    if where is None:
        where = jnp.ones(values.shape, bool)
    values = values.astype(np.promote_types(values.dtype, np.float32))
    return jnp.sum(jnp.where(where, values, 0)), jnp.sum(where.astype(values.dtype))


def _mean_over_target(target, model, where, value):
    """The sum over outcomes of ``exp(target) * value(target, model)``, with 0 log 0 = 0."""
    target, model = _float32_pair(target, model)
    live = ~jnp.isneginf(target) if where is None else where & ~jnp.isneginf(target)
    infinite = live & jnp.isneginf(model)
    finite = live & ~infinite
    # Both branches of a jnp.where are differentiated: what is left out must be harmless before the
    # arithmetic, not only after it.
    target, model = jnp.where(finite, target, 0), jnp.where(finite, model, 0)
    terms = jnp.where(finite, jnp.exp(target) * value(target, model), 0)
    return jnp.sum(jnp.where(infinite, jnp.inf, terms), axis=-1)


def _kl_to_mixture(log_probs, other, where, share):
    """KL(P || (1 - share) * P + share * other): finite wherever `other` has no mass."""
    live = ~jnp.isneginf(log_probs) if where is None else where & ~jnp.isneginf(log_probs)
    log_probs, other = jnp.where(live, log_probs, 0), jnp.where(live, other, 0)
    # log((1 - share) + share * ratio), exactly 0 where the two are equal. The ratio overflows
    # beyond exp(88); from 80 on its logarithm is a straight line.
    log_ratio = other - log_probs
    log_mixture = jnp.log1p(share * jnp.expm1(jnp.minimum(log_ratio, 80)))
    log_mixture += jnp.maximum(log_ratio - 80, 0)
    return jnp.sum(jnp.where(live, -jnp.exp(log_probs) * log_mixture, 0), axis=-1)


def _float32_pair(target, model):
    """Both in at least float32; they must have one shape."""
    if target.shape != model.shape:
        raise ValueError(
            "target_log_probs and model_log_probs must have one shape [..., outcomes], "
            f"got {target.shape} and {model.shape}: broadcast one to the other"
        )
    wide = (np.promote_types(x.dtype, np.float32) for x in (target, model))
    return tuple(x.astype(dtype) for x, dtype in zip((target, model), wide))
