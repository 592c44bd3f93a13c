"""What happens inside a forward pass: attention, residual stream and caps, layer by layer.

Unusual: this is for looking, on one or a few short rows; it keeps [time, time] matrices of every
head of every layer, which the model itself never does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from matchbook.gemma.attention import visible
from matchbook.gemma.decoding import through_layer, unstack
from matchbook.gemma.layers import rope_rotation, soft_cap
from matchbook.gemma.model import Transformer


class Trace(NamedTuple):
    """Of rows of tokens; layer 0 is local, layer 1 global, and so on."""

    residual_rms: Float[Array, "layers_and_one batch time"]  # before layer 0, then after each layer
    scores: Float[Array, "layers batch heads time time"]  # scaled, before the cap; 0 where unseen
    attention: Float[Array, "layers batch heads time time"]  # what is left after cap, mask, softmax
    uncapped_logits: Float[Array, "batch time vocab"]
    logits: Float[Array, "batch time vocab"]  # as the model gives them


def trace(model: Transformer, tokens: Int[Array, "batch time"]) -> Trace:
    """One document per row, through all layers one by one; see `Trace`.

    Raises:
      ValueError: rows so long that the matrices would take more than 2 GiB.
    """
    config = model.config
    batch, time = tokens.shape
    size = 2 * 4 * config.num_layers * batch * config.num_heads * time**2
    if size > 2 * 2**30:
        raise ValueError(
            f"tokens: expected short rows, got {batch} x {time}: the matrices of all heads and "
            f"layers would take {size / 2**30:.1f} GiB"
        )
    return _trace(model, tokens)


@jax.jit
def _trace(model: Transformer, tokens: Int[Array, "batch time"]) -> Trace:
    config, weights = model.config, unstack(model)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    segments = jnp.ones_like(tokens)
    rotation = rope_rotation(positions, config.head_dim, config.rope_base)
    kept = []

    def rms(x: Array) -> Array:
        return jnp.sqrt(jnp.mean(x.astype(jnp.float32) ** 2, axis=-1))

    x = weights.embedder.encode(tokens)
    stream = [rms(x)]
    for layer, kind in zip(weights.layers, config.layer_types, strict=True):
        window = config.sliding_window if kind == "local" else None
        mask = visible(positions, segments, window)[:, None]

        def mix(q: Array, k: Array, v: Array, mask: Array = mask) -> tuple[Array, None]:
            groups = config.queries_per_kv_head
            k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
            product = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32)
            scores = product * config.query_scale
            capped = soft_cap(scores, config.attention_softcap)
            attention = jax.nn.softmax(jnp.where(mask, capped, -jnp.inf), axis=-1)
            kept.append((jnp.where(mask, scores, 0.0), attention))
            return jnp.einsum("bhts,bshd->bthd", attention.astype(v.dtype), v), None

        x, _ = through_layer(layer, x, rotation, mix)
        stream.append(rms(x))
    hidden = weights.final_norm(x)
    table = weights.embedder.table[...]
    uncapped = jnp.einsum("btd,vd->btv", hidden, table, preferred_element_type=jnp.float32)
    scores, attention = (jnp.stack(parts) for parts in zip(*kept))
    return Trace(jnp.stack(stream), scores, attention, uncapped, model.unembed(hidden))
