"""A model of the quantile, learned from one anchor sample an answer: BOND, appendix B.1, Eq. 25.

It gives the chance that an anchor sample is not better than the answer, as the logit of a Bernoulli
variable; the binary cross-entropy of single comparisons is least where that chance is p_<= itself.
Like a policy it is a pure function of its weights. Trained by `algorithms.learned_bond_step`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from matchbook.bond.policies import Weights
from matchbook.bond.sequences import TokenPrompts, counted, joined

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


@functools.lru_cache
def transformer_quantile(graph: nnx.GraphDef, stop_tokens: tuple[int, ...] = ()) -> QuantileModel:
    """A linear head on the stream at an answer's last token, of a trunk of its own.

    Its weights are those of `head_on_trunk`; the trunk learns too.
    """

    def logits(
        weights: Weights, prompts: TokenPrompts, answers: Int[Array, "prompts samples time"]
    ) -> Logits:
        num_prompts, num_samples, time = answers.shape
        flat = answers.reshape(-1, time)
        model = nnx.merge(graph, weights["trunk"])
        hidden = model.hidden(*joined(prompts.repeat(num_samples), flat))
        last = jnp.sum(counted(flat, stop_tokens), axis=1) + prompts.tokens.shape[1] - 1
        stream = hidden[jnp.arange(flat.shape[0]), last].astype(jnp.float32)
        values = stream @ weights["head"]["kernel"] + weights["head"]["bias"]
        return values.reshape(num_prompts, num_samples)

    return logits


def head_on_trunk(trunk: Weights, embed_dim: int) -> dict[str, Any]:
    """Initial weights for `transformer_quantile`: the reference's trunk, a head of zeros.

    All quantiles start as 1/2.
    """
    head = {"kernel": jnp.zeros(embed_dim, jnp.float32), "bias": jnp.zeros((), jnp.float32)}
    return {"trunk": jax.tree.map(jnp.copy, trunk), "head": head}
