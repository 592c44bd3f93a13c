"""`generate`: lists of tokens in, text out, with everything checked before anything compiles.

Unusual: prompts are padded on the left to a power of two, so that prompts of about one length share
their programs; a model's unstacked weights are kept while its own live.
"""

import weakref
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from matchbook.gemma.decoding import Unstacked, unstack
from matchbook.gemma.model import Transformer
from matchbook.gemma.rollout import Generation, State, advance, allowed_tokens, start
from matchbook.gemma.sampling import row_keys, sampling

SHORTEST = 16  # columns; prompts up to this length share one program

_start = jax.jit(start, static_argnames=("num_new", "num_tokens"))
_advance = jax.jit(advance, static_argnames="num_tokens", donate_argnames="state")
_unstack = jax.jit(unstack)
_row_keys = jax.jit(row_keys, static_argnums=(1, 2))


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    num_samples: int = 1,
    temperature: int | float = 0.0,
    top_k: int | None = None,
    top_p: int | float | None = None,
    stop_tokens: Sequence[int] = (),
    seed: int = 0,
    num_tokens: int | None = None,
) -> Generation:
    """Continues each prompt `num_samples` times.

    Args:
      model: its layers are copied at the first call, and the copy kept while their arrays live.
      prompts: token lists of any lengths, without padding; start each with bos if the model was
        trained so. Each is read once, however many samples continue it.
      max_new_tokens: tokens to generate at most. Every number compiles its own program.
      num_samples: continuations of each prompt; all the same for temperature 0.
      temperature: logits are divided by it; 0 takes the most likely token.
      top_k: draw from the k most likely tokens only.
      top_p: draw from the smallest set of most likely tokens with this probability; see `sampling`.
      stop_tokens: end a row with the first of these, which it keeps. Gemma 2 stops at 1, the end of
        a text, and 107, the end of a turn.
      seed: of the draws. Row i, sample j draws the same whatever else is in the batch.
      num_tokens: ids from here on are never generated: the size of the tokenizer where the table
        has more rows. By default 256,000, or all rows of a smaller table.

    Returns:
      Tokens, their log-probabilities and the lengths, for each prompt and sample. The first two are
      0 after the end. Log-probabilities are those of a training forward pass: of the full softmax
      at temperature 1, over all rows of the table, whatever restricted the draw.

    Raises:
      ValueError: no prompts, an empty one, one too long for `max_new_tokens` more, an id that is no
        token, or a setting out of its range.
    """
    options = (max_new_tokens, num_samples, temperature, top_k, top_p, stop_tokens, seed)
    state, run_to = begin(model, prompts, *options, num_tokens)
    return run_to(state, max_new_tokens).result(len(prompts))


def begin(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    num_samples: int,
    temperature: int | float,
    top_k: int | None,
    top_p: int | float | None,
    stop_tokens: Sequence[int],
    seed: int,
    num_tokens: int | None,
) -> tuple[State, Callable[[State, int], State]]:
    """The state with the first tokens, and the function that runs it to so many tokens in all.

    Arguments and errors are those of `generate`. A state that was run on is used up.
    """
    for name, count in (("max_new_tokens", max_new_tokens), ("num_samples", num_samples)):
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")
    settings = sampling(temperature, top_k, top_p, stop_tokens)
    allowed = allowed_tokens(model.config, num_tokens)
    _check_ids("stop_tokens", stop_tokens, allowed)
    arrays = pad(prompts, max_new_tokens, model.config.max_context, allowed)
    keys = _row_keys(jax.random.key(seed), len(prompts), num_samples)
    state = _start(model, *arrays, keys, settings, num_new=max_new_tokens, num_tokens=allowed)
    weights = unstacked(model)

    def run_to(state: State, limit: int) -> State:
        return _advance(weights, state, keys, settings, jnp.int32(limit), num_tokens=allowed)

    return state, run_to


def pad(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, max_context: int, num_tokens: int
) -> tuple[Int[Array, "prompts time"], Int[Array, "prompts time"], Int[Array, "prompts time"]]:
    """Tokens, positions and segments of prompts padded on the left to a power of two.

    Raises:
      ValueError: see `generate`.
    """
    if not len(prompts):
        raise ValueError("prompts: expected at least one list of token ids, got none")
    for row, prompt in enumerate(prompts):
        _check_ids(f"prompts[{row}]", prompt, num_tokens)
        if not len(prompt):
            raise ValueError(f"prompts[{row}]: expected at least one token, such as bos, got none")
        if len(prompt) + max_new_tokens > max_context:
            raise ValueError(
                f"prompts[{row}]: expected at most max_context - max_new_tokens = {max_context} - "
                f"{max_new_tokens} tokens, got {len(prompt)}: cut the prompt, ask for fewer new "
                "tokens, or set max_context in the config"
            )
    longest = max(map(len, prompts))
    time = min(max(SHORTEST, 1 << (longest - 1).bit_length()), max_context)
    tokens = np.zeros((len(prompts), time), np.int32)
    segments = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, time - len(prompt) :] = prompt
        segments[row, time - len(prompt) :] = 1
    positions = np.maximum(np.cumsum(segments, axis=1, dtype=np.int32) - 1, 0)
    return jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(segments)


def _check_ids(name: str, ids: Sequence[int], num_tokens: int) -> None:
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name}: expected a list of token ids, got {ids!r:.80}")
    if wrong := [int(token) for token in array if not 0 <= token < num_tokens]:
        raise ValueError(f"{name}: expected token ids from 0 to {num_tokens - 1}, got {wrong[0]}")


_kept: list[tuple[tuple[weakref.ref, ...], object, Unstacked]] = []  # one entry at most


def unstacked(model: Transformer) -> Unstacked:
    """`unstack`, done once for as long as the model's arrays live: JAX arrays never change.

    Kept for one model at a time, beside its own weights: twice the memory of its layers.
    """
    arrays, structure = jax.tree.flatten(model)
    for sources, of_structure, weights in _kept:
        same = all(source() is array for source, array in zip(sources, arrays))
        if same and of_structure == structure:
            return weights
    _kept.clear()  # before the next copy is made, not after
    weights = _unstack(model)
    if all(isinstance(array, jax.Array) for array in arrays):
        _kept.append((tuple(map(weakref.ref, arrays)), structure, weights))
        weakref.finalize(arrays[0], _kept.clear)
    return weights
