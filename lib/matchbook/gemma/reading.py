"""Prompts read once, for all that follows: sampling from them, and the likelihood of what was
sampled.

Unusual: reading is differentiable, and so is going on from what was read. A trainer that samples
answers and then learns from them passes its gradient through the very forward pass over the prompts
that sampling began with, and the several answers of a prompt share it:

    prompt prompt prompt --read--> cache --go on--> first answer    positions 3 4
       0      1      2                  `---go on--> second answer  positions 3 4
"""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from matchbook.gemma.attention import attention
from matchbook.gemma.cache import (
    Cache,
    Slots,
    attend,
    fill,
    num_slots,
    seen,
    stored_positions,
)
from matchbook.gemma.decoding import through_layer, unstacked_layer
from matchbook.gemma.dimensions import gathered
from matchbook.gemma.layers import rope_rotation, soft_cap
from matchbook.gemma.model import Layer, Transformer, rematerialised

type Through = Callable[[Layer, Any, int | None, bool, Array], tuple[Array, Any]]
"""``(layer, given, window, ends, x) -> x, kept``: one layer."""


class Read(NamedTuple):
    """What a model has made of prompts; a pytree.

    stream: of each prompt's last token, after the final norm: what predicts the next one.
    positions: of that token.
    cache: of all tokens.
    """

    stream: Float[Array, "prompts embed"]
    positions: Int[Array, " prompts"]
    cache: Cache


def read(
    model: Transformer,
    tokens: Int[Array, "prompts time"],
    positions: Int[Array, "prompts time"],
    segments: Int[Array, "prompts time"],
    *,
    context: int | None = None,
) -> Read:
    """Whole prompts at once. Differentiable; the model's `remat` says what is computed again.

    Args:
      model: its stacked weights are scanned, unless its `unroll` takes all pairs in one turn.
      tokens: prompts, padded on the left: the last column holds a token of every row.
      positions: of each token in its document, not negative.
      segments: document of each token, 0 for padding; the one of the last column goes on.
      context: columns that the cache is for, those of the prompt included; by default these alone.
        `cache.grow` makes room for more.
    """
    config, columns = model.config, tokens.shape[1]
    context = columns if context is None else context
    rotation = rope_rotation(positions, config.head_dim, config.rope_base)
    stored = {
        window: stored_positions(positions, segments, num_slots(context, window))
        for window in (config.sliding_window, None)
    }

    def through(layer: Layer, _: None, window: int | None, ends: bool, x: Array) -> Any:
        def mix(q: Array, k: Array, v: Array) -> tuple[Array, Slots]:
            slots = fill(k, v, num_slots(context, window))
            softcap, scale = config.attention_softcap, config.query_scale
            if ends:
                mask = seen(stored[window], positions[:, -1], window)
                return attend(q, slots, mask, softcap=softcap, scale=scale), slots
            mixed = attention(
                q,
                k,
                v,
                positions=positions,
                segments=segments,
                window=window,
                softcap=softcap,
                scale=scale,
                implementation=layer.attention.implementation,
            )
            return mixed, slots

        weights = unstacked_layer(layer, model.embedder.dtype)
        return through_layer(weights, x, rotation, mix, ends=ends)

    x = gathered(model.embedder).encode(tokens)
    x, layers = _through_layers(model, through, x, [None] * config.num_layers, ends=True)
    cache = Cache(jnp.int32(columns), *stored.values(), tuple(layers))
    return Read(model.final_norm(x[:, -1]), positions[:, -1].astype(jnp.int32), cache)


def prefill(
    model: Transformer,
    tokens: Int[Array, "prompts time"],
    positions: Int[Array, "prompts time"],
    segments: Int[Array, "prompts time"],
    *,
    context: int,
) -> tuple[Float[Array, "prompts vocab"], Cache]:
    """Logits of the token that follows each prompt, and the cache that continues it; as `read`."""
    found = read(model, tokens, positions, segments, context=context)
    return model.unembed(found.stream), found.cache


def go_on(
    model: Transformer, found: Read, texts: Int[Array, "prompts samples time"]
) -> Float[Array, "prompts samples time embed"]:
    """The stream after the final norm at each token of texts that go on from prompts.

    A text sees its prompt and itself, none of the others. Differentiable in the model and in what
    was read. Texts are taken to be short: their scores are one array, [time, slots + time] a head.

    Args:
      model: the one that `found` comes from.
      found: `read` of the prompts.
      texts: any number of them to a prompt, of equal width.
    """
    config, cache = model.config, found.cache
    samples, time = texts.shape[1:]
    if time == 0:
        return jnp.zeros((*texts.shape, config.embed_dim), found.stream.dtype)
    place = found.positions[:, None] + 1 + jnp.arange(time, dtype=jnp.int32)[None, :]
    rotation = rope_rotation(jnp.tile(place, (1, samples)), config.head_dim, config.rope_base)
    windows = {config.sliding_window: cache.local_positions, None: cache.global_positions}
    masks = {window: _visible(stored, place, window) for window, stored in windows.items()}

    def through(layer: Layer, slots: Slots, window: int | None, _: bool, x: Array) -> Any:
        def mix(q: Array, k: Array, v: Array) -> tuple[Array, None]:
            own = (part.reshape(-1, samples, time, *part.shape[2:]) for part in (q, k, v))
            options = {"softcap": config.attention_softcap, "scale": config.query_scale}
            return _attend(*own, slots, masks[window], **options).reshape(q.shape), None

        return through_layer(unstacked_layer(layer, model.embedder.dtype), x, rotation, mix)

    x = gathered(model.embedder).encode(texts.reshape(len(texts), -1))
    x, _ = _through_layers(model, through, x, list(cache.layers), ends=False)
    return model.final_norm(x).reshape(*texts.shape, -1)


def _visible(
    stored: Int[Array, "prompts slots"], place: Int[Array, "prompts time"], window: int | None
) -> Bool[Array, "prompts time slots_and_time"]:
    """Which slots of its prompt, and which tokens of its text, each token of a text sees."""
    keys = jnp.concatenate([stored, place], axis=1)
    return jax.vmap(seen, (None, 1, None), 1)(keys, place, window)


def _attend(
    q: Float[Array, "prompts samples time heads head_dim"],
    k: Float[Array, "prompts samples time kv_heads head_dim"],
    v: Float[Array, "prompts samples time kv_heads head_dim"],
    slots: Slots,
    mask: Bool[Array, "prompts time slots_and_time"],
    *,
    softcap: int | float | None,
    scale: int | float,
) -> Float[Array, "prompts samples time heads head_dim"]:
    """`attention` of texts over their prompt's slots and themselves; terms as in `dense`.

    Inside, heads of keys lead and the queries of a sample are [time, group] in one axis, so that
    both products are plain ones and nothing but q, k, v and the result is ever transposed.
    """
    prompts, samples, time, heads, head_dim = q.shape
    kv_heads, groups = k.shape[3], heads // k.shape[3]
    by_heads = q.reshape(prompts, samples, time, kv_heads, groups, head_dim)
    by_heads = by_heads.transpose(0, 3, 1, 2, 4, 5).reshape(
        prompts, kv_heads, samples, -1, head_dim
    )
    k, v = (part.transpose(0, 3, 1, 2, 4) for part in (k, v))
    wide = {"preferred_element_type": jnp.float32}
    of_prompt = jnp.einsum("pksqh,pkch->pksqc", by_heads, slots.keys, **wide)
    of_text = jnp.einsum("pksqh,pksuh->pksqu", by_heads, k, **wide)
    scores = soft_cap(jnp.concatenate([of_prompt, of_text], axis=-1) * scale, softcap)
    seen_by_query = jnp.repeat(mask, groups, axis=1)[:, None, None]
    scores = jnp.where(seen_by_query, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    of_prompt, of_text = jnp.split(weights, [slots.keys.shape[2]], axis=-1)
    mixed = jnp.einsum("pksqc,pkch->pksqh", of_prompt, slots.values, **wide)
    mixed += jnp.einsum("pksqu,pksuh->pksqh", of_text, v, **wide)
    mixed = mixed.reshape(prompts, kv_heads, samples, time, groups, head_dim)
    return mixed.transpose(0, 2, 3, 1, 4, 5).reshape(q.shape).astype(q.dtype)


def _through_layers(
    model: Transformer, through: Through, x: Array, given: list[Any], *, ends: bool
) -> tuple[Array, list[Any]]:
    """The stream after all layers, and what `through` keeps of each; `given` is one for each, too.

    Where a loop over pairs is not wanted, there is none, and the last layer need not go on with
    more than the `ends`.
    """
    graph, stacked = nnx.split(model.pairs)
    dtype, remat, window = model.embedder.dtype, model.remat, model.config.sliding_window
    pairs = list(zip(given[::2], given[1::2]))

    def step(x: Array, scanned: Any, ends: bool = False) -> tuple[Array, Any]:
        weights, (local_given, global_given) = scanned
        pair = nnx.merge(graph, weights)
        first = partial(through, gathered(pair.local_layer, dtype), local_given, window, False)
        then = partial(through, gathered(pair.global_layer, dtype), global_given, None, ends)
        first, then = (rematerialised(layer, remat, "layer") for layer in (first, then))

        def both(x: Array) -> tuple[Array, Any]:
            x, local_kept = first(x)
            x, global_kept = then(x)
            return x, (local_kept, global_kept)

        return rematerialised(both, remat, "pair")(x)

    if model.unroll >= len(pairs):
        kept = []
        for index, pair in enumerate(pairs):
            weights = jax.tree.map(itemgetter(index), stacked)
            x, of_pair = step(x, (weights, pair), ends and index == len(pairs) - 1)
            kept.append(of_pair)
    else:
        together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
        x, scanned = jax.lax.scan(step, x, (stacked, together), unroll=model.unroll)
        kept = [jax.tree.map(itemgetter(index), scanned) for index in range(len(pairs))]
    return x, [one for pair in kept for one in pair]
