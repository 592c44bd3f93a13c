"""Small Gemma 2 models to experiment with, as plain weights, and frozen ones as teachers.

Shapes keep the proportions of the real 2B: two query heads for each key/value head, a gated MLP
four times as wide as the stream, local and global layers in turns.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from matchbook.gemma import Gemma2Config, Transformer

Weights = dict[str, Any]  # nested, float32 arrays at the leaves


@runtime_checkable
class Batch(Protocol):
    """Packed rows, such as `corpus.Rows`: segment 0 is padding."""

    @property
    def tokens(self) -> Int[Array, "batch time"]: ...
    @property
    def positions(self) -> Int[Array, "batch time"]: ...
    @property
    def segments(self) -> Int[Array, "batch time"]: ...


Teacher = Callable[[Any], Float[Array, "batch time vocab"]]  # from a batch to logits


def small_gemma(vocab_size: int, embed_dim: int, num_layers: int, window: int) -> Gemma2Config:
    """A config of the 2B's proportions; about 15 * num_layers * embed_dim^2 weights and the table.

    Args:
      vocab_size: pieces of the tokenizer.
      embed_dim: width; a multiple of 64, or of 128 from 256 on, so that heads of 32, or 64, fit.
      num_layers: even.
      window: positions a local layer sees.

    Raises:
      ValueError: another width.
    """
    head_dim = 32 if embed_dim < 256 else 64
    if embed_dim % (2 * head_dim):
        raise ValueError(f"embed_dim: expected a multiple of {2 * head_dim}, got {embed_dim}")
    num_heads = embed_dim // head_dim
    return Gemma2Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads // 2,
        head_dim=head_dim,
        mlp_dim=4 * embed_dim,
        sliding_window=window,
    )


def new_model(config: Gemma2Config, seed: int, **options: Any) -> tuple[nnx.GraphDef, Weights]:
    """A model's static part, and its initial weights as nested dicts of float32 arrays.

    ``nnx.merge(graph, weights)`` is the model again. `options` are `Transformer`'s: `dtype` of the
    activations (bfloat16 with float32 weights is mixed precision), `remat`, `attention`.
    """
    return static_part(config, **options), _initial_weights(config, jax.random.key(seed))


def static_part(config: Gemma2Config, **options: Any) -> nnx.GraphDef:
    """What a model is apart from its weights; nothing is computed."""
    return nnx.graphdef(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0), **options)))


@functools.partial(jax.jit, static_argnums=0)
def _initial_weights(config: Gemma2Config, key: PRNGKeyArray) -> Weights:
    return nnx.to_pure_dict(nnx.state(Transformer(config, rngs=nnx.Rngs(key))))


def frozen_teacher(graph: nnx.GraphDef, weights: Weights) -> Teacher:
    """A trained model as a teacher."""

    def logits(batch: Batch) -> Float[Array, "batch time vocab"]:
        return nnx.merge(graph, weights)(batch.tokens, batch.positions, batch.segments)

    return logits
