"""Tokens from a model, as a pure function: prompts read once, then one compiled loop over tokens.

Unusual: each row draws with its own key, folded from prompt, sample and step, so its text does not
depend on the rows beside it; the loop runs to a limit that is not compiled in, so that a stream is
the same program with a nearer limit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from matchbook.gemma.cache import Cache, grow, repeat
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.decoding import Unstacked, decode, unstack
from matchbook.gemma.layouts import HUGGING_FACE_ROWS
from matchbook.gemma.model import Transformer
from matchbook.gemma.reading import Read, read
from matchbook.gemma.sampling import Sampling, choose


class Generation(NamedTuple):
    """What was generated, for each sample of each prompt.

    After a stop token, which is kept and counted, `tokens` and `log_probs` are 0.
    """

    tokens: Int[Array, "prompts samples new"]
    log_probs: Float[Array, "prompts samples new"]
    lengths: Int[Array, "prompts samples"]


class State(NamedTuple):
    """The loop's, with one row for each sample of each prompt."""

    cache: Cache
    step: Int[Array, ""]  # tokens chosen so far
    positions: Int[Array, " rows"]  # of the newest token
    tokens: Int[Array, "rows new"]
    log_probs: Float[Array, "rows new"]
    lengths: Int[Array, " rows"]
    stopped: Bool[Array, " rows"]

    def result(self, num_prompts: int) -> Generation:
        """Rows as samples of prompts."""
        parts = (self.tokens, self.log_probs, self.lengths)
        return Generation(*(x.reshape(num_prompts, -1, *x.shape[1:]) for x in parts))


def start(
    model: Transformer,
    tokens: Int[Array, "prompts time"],
    positions: Int[Array, "prompts time"],
    segments: Int[Array, "prompts time"],
    keys: Key[Array, "prompts samples"],
    settings: Sampling,
    *,
    num_new: int,
    num_tokens: int,
) -> State:
    """The prompts read, each once, and the first token of each sample chosen."""
    context = tokens.shape[1] + num_new - 1  # the last token is never read
    prompts = read(model, tokens, positions, segments, context=context)
    return first_tokens(model, prompts, keys, settings, num_new=num_new, num_tokens=num_tokens)


def first_tokens(
    model: Transformer,
    prompts: Read,
    keys: Key[Array, "prompts samples"],
    settings: Sampling,
    *,
    num_new: int,
    num_tokens: int,
) -> State:
    """The state after `read`, whose cache has room for all tokens but the last."""
    samples, rows = keys.shape[1], keys.size
    state = State(
        cache=repeat(prompts.cache, samples),
        step=jnp.int32(0),
        positions=jnp.repeat(prompts.positions, samples),
        tokens=jnp.zeros((rows, num_new), jnp.int32),
        log_probs=jnp.zeros((rows, num_new), jnp.float32),
        lengths=jnp.zeros(rows, jnp.int32),
        stopped=jnp.zeros(rows, bool),
    )
    logits = jnp.repeat(model.unembed(prompts.stream), samples, axis=0)
    return _record(state, logits, keys, settings, num_tokens)


def _record(
    state: State,
    logits: Float[Array, "rows vocab"],
    keys: Key[Array, "prompts samples"],
    settings: Sampling,
    num_tokens: int,
) -> State:
    """`state` with the next token of each row that has not stopped."""
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys.reshape(-1), state.step)
    tokens, log_probs = choose(logits, step_keys, settings, num_tokens)
    tokens = jnp.where(state.stopped, 0, tokens)
    log_probs = jnp.where(state.stopped, 0.0, log_probs)

    def put(into: Array, column: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(into, column[:, None], state.step, axis=1)

    is_stop = jnp.any(tokens[:, None] == settings.stop_tokens[None, :], axis=1)
    return state._replace(
        step=state.step + 1,
        positions=state.positions + 1,
        tokens=put(state.tokens, tokens),
        log_probs=put(state.log_probs, log_probs),
        lengths=state.lengths + jnp.where(state.stopped, 0, 1),
        stopped=state.stopped | is_stop,
    )


def advance(
    weights: Unstacked,
    state: State,
    keys: Key[Array, "prompts samples"],
    settings: Sampling,
    limit: Int[Array, ""],
    *,
    num_tokens: int,
) -> State:
    """`state` after `limit` tokens in all, or once every row has stopped."""

    def unfinished(state: State) -> Array:
        return (state.step < limit) & ~jnp.all(state.stopped)

    def body(state: State) -> State:
        newest = jax.lax.dynamic_index_in_dim(state.tokens, state.step - 1, axis=1, keepdims=False)
        logits, cache = decode(weights, state.cache, newest, state.positions)
        return _record(state._replace(cache=cache), logits, keys, settings, num_tokens)

    return jax.lax.while_loop(unfinished, body, state)


def rollout(
    model: Transformer,
    tokens: Int[Array, "prompts time"],
    positions: Int[Array, "prompts time"],
    segments: Int[Array, "prompts time"],
    keys: Key[Array, "prompts samples"],
    settings: Sampling,
    *,
    num_new: int,
    num_tokens: int | None = None,
) -> Generation:
    """Continues prompts: `generate` as a pure function of arrays, for use inside `jit`.

    Args:
      model: made with `nnx.merge(graph, weights)` from the weights of the moment.
      tokens: prompts, padded on the left.
      positions: of each token in its document, not negative.
      segments: document of each token, 0 for padding; the one of the last column goes on.
      keys: one for each sample of each prompt, for example from `row_keys`.
      settings: from `sampling`.
      num_new: tokens to generate at most.
      num_tokens: see `generate`.
    """
    prompts = read(model, tokens, positions, segments)
    return rollout_from(model, prompts, keys, settings, num_new=num_new, num_tokens=num_tokens)


def rollout_from(
    model: Transformer,
    prompts: Read,
    keys: Key[Array, "prompts samples"],
    settings: Sampling,
    *,
    num_new: int,
    num_tokens: int | None = None,
) -> Generation:
    """`rollout` from prompts that were read, for whoever needs them once more."""
    allowed = allowed_tokens(model.config, num_tokens)
    cache = grow(prompts.cache, model.config.sliding_window, num_new - 1)
    roomy = prompts._replace(cache=cache)
    state = first_tokens(model, roomy, keys, settings, num_new=num_new, num_tokens=allowed)
    limit = jnp.int32(num_new)
    state = advance(unstack(model, keys.size), state, keys, settings, limit, num_tokens=allowed)
    return state.result(len(prompts.positions))


def allowed_tokens(config: Gemma2Config, num_tokens: int | None) -> int:
    """How many ids are tokens: by default the table's rows, less the padding of Google's.

    Raises:
      ValueError: `num_tokens` below 1 or above the rows of the table.
    """
    if num_tokens is None:
        return min(config.vocab_size, HUGGING_FACE_ROWS)
    if not 1 <= num_tokens <= config.vocab_size:
        raise ValueError(
            f"num_tokens: expected 1 to vocab_size = {config.vocab_size}, got {num_tokens}"
        )
    return num_tokens
