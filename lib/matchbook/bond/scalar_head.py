"""One number for an answer to a prompt: a linear head on a transformer's last stream.

Read at the answer's last token, the stop included, so that it has seen all of prompt and answer.
Rewards and learned quantiles are such heads, each on a trunk of its own that learns with it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from matchbook.bond.policies import Weights
from matchbook.bond.sequences import TokenPrompts, answer_streams, counted

Values = Float[Array, "prompts samples"]
ScalarModel = Callable[[Any, Any, Any], Values]
"""``(weights, prompts, answers) -> values``: a pure function."""


@functools.lru_cache
def scalar_head(graph: nnx.GraphDef, stop_tokens: tuple[int, ...] = ()) -> ScalarModel:
    """The model of which `head_on_trunk` makes initial weights; values are float32.

    Args:
      graph: static part of the trunk.
      stop_tokens: an answer ends with the first of these, or fills its width.
    """

    def values(
        weights: Weights, prompts: TokenPrompts, answers: Int[Array, "prompts samples time"]
    ) -> Values:
        streams = answer_streams(nnx.merge(graph, weights["trunk"]), prompts, answers)
        last = jnp.sum(counted(answers, stop_tokens), axis=-1)[..., None, None]
        stream = jnp.take_along_axis(streams, last, axis=2)[:, :, 0].astype(jnp.float32)
        return stream @ weights["head"]["kernel"] + weights["head"]["bias"]

    return values


def head_on_trunk(trunk: Weights, embed_dim: int) -> dict[str, Any]:
    """Weights for `scalar_head`: a copy of the trunk's, such as the reference's, a head of zeros.

    All values start as 0.
    """
    head = {"kernel": jnp.zeros(embed_dim, jnp.float32), "bias": jnp.zeros((), jnp.float32)}
    return {"trunk": jax.tree.map(jnp.copy, trunk), "head": head}
