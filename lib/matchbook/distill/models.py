"""Small Gemma 2 models to experiment with, as plain weights, and frozen ones as teachers.

Shapes keep the proportions of the real 2B: two query heads for each key/value head, a gated MLP
four times as wide as the stream, local and global layers in turns.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from matchbook.distill.chunks import project_to_vocab
from matchbook.gemma import Gemma2Config, Transformer
from matchbook.gemma.layers import soft_cap

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


class PlainRows(NamedTuple):
    """The least that is a `Batch`."""

    tokens: Int[Array, "batch time"]
    positions: Int[Array, "batch time"]
    segments: Int[Array, "batch time"]


class Head(NamedTuple):
    """What a model's logits are made of: ``soft_cap(hidden @ table.T)``, which is never whole."""

    hidden: Float[Array, "batch time embed"]
    table: Float[Array, "vocab embed"]
    softcap: int | float | None


Teacher = Callable[[Any], Head | Array]
"""From a batch to a `Head`, or to logits [batch, time, vocab] where these are small."""


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
    activations (bfloat16 with float32 weights is mixed precision), `remat`, `attention`, `unroll`.
    """
    return static_part(config, **options), _initial_weights(config, jax.random.key(seed))


def static_part(config: Gemma2Config, **options: Any) -> nnx.GraphDef:
    """What a model is apart from its weights; nothing is computed."""
    return nnx.graphdef(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0), **options)))


@functools.partial(jax.jit, static_argnums=0)
def _initial_weights(config: Gemma2Config, key: PRNGKeyArray) -> Weights:
    return nnx.to_pure_dict(nnx.state(Transformer(config, rngs=nnx.Rngs(key))))


def head(graph: nnx.GraphDef, weights: Weights, batch: Batch) -> Head:
    """A model's head on a batch."""
    model = nnx.merge(graph, weights)
    hidden = model.hidden(batch.tokens, batch.positions, batch.segments)
    return Head(hidden, model.embedder.table[...], model.config.final_softcap)


def frozen_teacher(graph: nnx.GraphDef, weights: Weights) -> Teacher:
    """A trained model as a teacher: a pytree of its weights that is called with a batch."""
    return jax.tree_util.Partial(_head_of(graph), weights)


@functools.lru_cache
def _head_of(graph: nnx.GraphDef) -> Callable[[Weights, Batch], Head]:
    """The same function object for the same model: what compares equal compiles once."""
    return functools.partial(head, graph)


def as_partial(teacher: Teacher) -> jax.tree_util.Partial:
    """A teacher as a pytree: any function has no arrays; the same one gives the same pytree."""
    return teacher if isinstance(teacher, jax.tree_util.Partial) else _partial(teacher)


@functools.lru_cache
def _partial(teacher: Teacher) -> jax.tree_util.Partial:
    return jax.tree_util.Partial(teacher)


def as_head(taught: Head | Array) -> Head:
    """What a teacher returned, as a head: logits are their own hidden states, by the identity."""
    if isinstance(taught, Head):
        return taught
    return Head(taught, jnp.eye(taught.shape[-1], dtype=taught.dtype), None)


def logits_of(taught: Head | Array) -> Float[Array, "batch time vocab"]:
    """Whole float32 logits of what a teacher returned: for looking, on small vocabularies."""
    hidden, table, softcap = as_head(taught)
    rows = hidden.reshape(-1, hidden.shape[-1])
    logits = soft_cap(project_to_vocab(rows, table.astype(hidden.dtype)), softcap)
    return logits.reshape(*hidden.shape[:-1], table.shape[0])
