"""A model of the quantile, learned from one anchor sample an answer: BOND, appendix B.1, Eq. 25.

It gives the chance that an anchor sample is not better than the answer, as the logit of a Bernoulli
variable; the binary cross-entropy of single comparisons is least where that chance is p_<= itself.
Like a policy it is a pure function of its weights. Trained by `algorithms.learned_bond_step`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from matchbook.bond.scalar_head import head_on_trunk, scalar_head

__all__ = [
    "Logits",
    "QuantileModel",
    "head_on_trunk",
    "log_quantile",
    "quantile_loss",
    "table_quantile",
    "transformer_quantile",
]

Logits = Float[Array, "prompts samples"]
QuantileModel = Callable[[Any, Any, Any], Logits]
"""``(weights, prompts, answers) -> logits`` of p_<=."""


def quantile_loss(logits: Logits, not_better: Bool[Array, "prompts samples"]) -> Float[Array, ""]:
    """Mean binary cross-entropy in nats, Eq. 25.

    `not_better` says whether the anchor sample's reward is at most the answer's.
    """
    target = not_better.astype(logits.dtype)
    chosen = target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits)
    return -jnp.mean(chosen)


def log_quantile(logits: Logits) -> Logits:
    """The model's log p_<=: finite, so that no rule for a count of zero is needed."""
    return jax.nn.log_sigmoid(logits)


def table_quantile(
    logits: Float[Array, "all_prompts answers"],
    prompts: Int[Array, " prompts"],
    answers: Int[Array, "prompts samples"],
) -> Logits:
    """One logit for every answer to every prompt, for tabular policies."""
    return jnp.take_along_axis(logits[prompts], answers, axis=1)


def transformer_quantile(graph: nnx.GraphDef, stop_tokens: tuple[int, ...] = ()) -> QuantileModel:
    """A linear head on the stream at an answer's last token, of a trunk of its own.

    Its weights are those of `head_on_trunk`: with a head of zeros all quantiles start as 1/2. The
    trunk learns too.
    """
    return scalar_head(graph, stop_tokens)
