"""Log-probabilities of continuations, and whether greedy decoding would have given them.

What multiple choice and perplexity (Table 13) are made of. Unusual: logits exist for 256 positions
at a time and only for those of continuations; pairs that differ in their last token alone, such as
the letters of a multiple choice, share one row.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from matchbook.gemma.generation import SHORTEST
from matchbook.gemma.harness.encoding import Pair
from matchbook.gemma.model import Transformer
from matchbook.gemma.rollout import allowed_tokens

POSITIONS = 256  # whose logits exist at a time: 262 MB in float32 at 256,000 ids


class Scored(NamedTuple):
    """Of a continuation, in nats."""

    log_prob: float
    is_greedy: bool  # each of its tokens is the most likely one


def score(
    model: Transformer,
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    max_length: int | None = None,
) -> Iterator[tuple[int, Scored]]:
    """The score of each continuation after its context, with its place in `pairs`.

    Longest first, in batches of `batch_size` rows padded to a power of two: two programs for each
    such length, 20 for lengths up to 8192. Softmax is over all rows of the table that are tokens.

    Args:
      model: whatever its dtype, softmax is in float32.
      pairs: tokens, see `encode_pair`.
      batch_size: rows at a time.
      max_length: tokens the model is shown at most, the last ones of longer contexts; by default
        the config's `max_context`.

    Raises:
      ValueError: an empty context or continuation, a continuation longer than `max_length`, a
        `max_length` beyond `max_context`, or a `batch_size` below 1.
    """
    longest = check_sizes(model, batch_size, max_length)
    sharing = defaultdict(list)  # what the model is shown -> continuations that end there
    for place, (context, continuation) in enumerate(pairs):
        if not context or not 1 <= len(continuation) <= longest:
            raise ValueError(
                f"pairs[{place}]: expected a context and a continuation of 1 to max_length = "
                f"{longest} tokens, got {len(context)} and {len(continuation)}"
            )
        shown = [*context, *continuation][-longest - 1 : -1]
        sharing[tuple(shown)].append((place, continuation))
    rows = sorted(sharing.items(), key=lambda row: -len(row[0]))
    for first in range(0, len(rows), batch_size):
        yield from _score_batch(model, rows[first : first + batch_size], batch_size, longest)


def check_sizes(model: Transformer, batch_size: int, max_length: int | None) -> int:
    """`max_length` with its default.

    Raises:
      ValueError: see `score`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    most = model.config.max_context
    if max_length is not None and not 1 <= max_length <= most:
        raise ValueError(f"max_length: expected 1 to max_context = {most}, got {max_length}")
    return most if max_length is None else max_length


def _score_batch(
    model: Transformer,
    rows: Sequence[tuple[tuple[int, ...], list[tuple[int, list[int]]]]],
    batch_size: int,
    longest: int,
) -> Iterator[tuple[int, Scored]]:
    time = min(max(SHORTEST, 1 << (len(rows[0][0]) - 1).bit_length()), longest)
    tokens = np.zeros((batch_size, time), np.int32)
    segments = np.zeros_like(tokens)
    places, targets, ends = [], [], []  # of every scored token, one continuation after the other
    for row, (shown, continuations) in enumerate(rows):
        tokens[row, : len(shown)] = shown
        segments[row, : len(shown)] = 1
        for _, continuation in continuations:
            end = row * time + len(shown)
            places += range(end - len(continuation), end)
            targets += continuation
            ends.append(len(targets))
    hidden = _hidden(model, jnp.asarray(tokens), jnp.asarray(segments))
    padding = [0] * (-len(targets) % POSITIONS)
    chunks = np.asarray([places + padding, targets + padding], np.int32)
    results = [
        _log_probs(model, hidden, *map(jnp.asarray, chunks[:, i : i + POSITIONS]))
        for i in range(0, chunks.shape[1], POSITIONS)
    ]
    log_probs, most_likely = (np.concatenate(parts)[: len(targets)] for parts in zip(*results))
    parts = zip(np.split(log_probs, ends[:-1]), np.split(most_likely, ends[:-1]))
    numbers = (number for _, continuations in rows for number, _ in continuations)
    for number, (log_prob, greedy) in zip(numbers, parts):
        yield number, Scored(float(log_prob.sum(dtype=np.float64)), bool(greedy.all()))


@jax.jit
def _hidden(
    model: Transformer, tokens: Int[Array, "batch time"], segments: Int[Array, "batch time"]
) -> Float[Array, "batch time embed"]:
    return model.hidden(tokens, segments=segments)


@jax.jit
def _log_probs(
    model: Transformer,
    hidden: Float[Array, "batch time embed"],
    places: Int[Array, " positions"],
    targets: Int[Array, " positions"],
) -> tuple[Float[Array, " positions"], Bool[Array, " positions"]]:
    """Of each target at its place in the flattened batch: log-probability, and is it the first."""
    rows = hidden.reshape(-1, hidden.shape[-1])[places]
    logits = model.unembed(rows)[:, : allowed_tokens(model.config, None)]
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    log_probs = chosen - jax.nn.logsumexp(logits, axis=1)
    return log_probs, jnp.argmax(logits, axis=1) == targets
