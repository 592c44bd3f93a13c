"""Prompts and answers as rows: what post-training reads (Gemma 2, section 4, Tables 4 and 5).

Two layouts of the same pairs. `AnswerRows` packs whole conversations and marks what is learned;
`Dialogues` pads prompts on the left, so that a model can go on from all of them at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from matchbook.distill.models import Batch
from matchbook.gemma import Tokenizer, training_chat

Pair = tuple[Sequence[int], Sequence[int]]  # ids of a prompt and of its answer, stop included


class AnswerRows(NamedTuple):
    """Rows of which only answers count: a `Batch`, and which of its targets are learned.

    tokens, positions, segments: as in `corpus.Rows`; segment 0 is padding.
    where: True where the *next* token is an answer's, its end included.
    """

    tokens: Int[Array | np.ndarray, "rows time"]
    positions: Int[Array | np.ndarray, "rows time"]
    segments: Int[Array | np.ndarray, "rows time"]
    where: Bool[Array | np.ndarray, "rows time"]


class Dialogues(NamedTuple):
    """A prompt in each row, padded on the left, and the answer given to it.

    tokens, positions, segments: of the prompts; segment 0 is padding.
    answers: padded on the right; what is there does not matter.
    lengths: tokens of each answer, its end included.
    """

    tokens: Int[Array | np.ndarray, "rows time"]
    positions: Int[Array | np.ndarray, "rows time"]
    segments: Int[Array | np.ndarray, "rows time"]
    answers: Int[Array | np.ndarray, "rows new"]
    lengths: Int[Array | np.ndarray, " rows"]


def chat_pairs(tokenizer: Tokenizer, conversations: Sequence[tuple[str, str]]) -> list[Pair]:
    """Ids of prompts and answers in the dialogue format: Table 5, and where it cuts.

    A prompt ends with the opening of the model's turn; an answer with end of turn and eos, which
    are learned with it.

    Args:
      tokenizer: one whose vocabulary has turns.
      conversations: what the user says, and what the model should.

    Raises:
      ValueError: an answer without text; names its index.
    """
    pairs: list[Pair] = []
    for index, (prompt, answer) in enumerate(conversations):
        if not answer.strip():
            raise ValueError(f"conversations[{index}]: expected an answer to learn, got {answer!r}")
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        ids, is_answer = training_chat(tokenizer, messages)
        start = is_answer.index(True)
        pairs.append((ids[:start], ids[start:]))
    return pairs


def chat_rows(
    tokenizer: Tokenizer, conversations: Sequence[tuple[str, str]], time: int
) -> AnswerRows:
    """Conversations in the dialogue format, packed for supervised fine-tuning.

    Raises:
      ValueError: as `chat_pairs` and `answer_rows`.
    """
    return _packed("conversations", chat_pairs(tokenizer, conversations), time)


def answer_rows(pairs: Sequence[Pair], time: int) -> AnswerRows:
    """Pairs in their order, as many to a row as fit whole; no one sees another.

    Args:
      pairs: ids of prompts and answers.
      time: tokens in a row.

    Raises:
      ValueError: no pair, or one without prompt, without answer, or of more than `time` tokens;
        names its index.
    """
    return _packed("pairs", pairs, time)


def dialogues(pairs: Sequence[Pair], prompt_time: int, answer_time: int) -> Dialogues:
    """Pairs one to a row, for `on_policy_step`.

    Args:
      pairs: ids of prompts and answers.
      prompt_time: columns for prompts.
      answer_time: columns for answers, the `num_new` of the step.

    Raises:
      ValueError: as `answer_rows`, for either part.
    """
    _check("pairs", pairs)
    _check_fit("pairs", "a prompt", [len(prompt) for prompt, _ in pairs], prompt_time)
    _check_fit("pairs", "an answer", [len(answer) for _, answer in pairs], answer_time)
    tokens = np.zeros((len(pairs), prompt_time), np.int32)
    segments, answers = np.zeros_like(tokens), np.zeros((len(pairs), answer_time), np.int32)
    for row, (prompt, answer) in enumerate(pairs):
        tokens[row, prompt_time - len(prompt) :] = prompt
        segments[row, prompt_time - len(prompt) :] = 1
        answers[row, : len(answer)] = answer
    positions = np.maximum(np.cumsum(segments, axis=1, dtype=np.int32) - 1, 0)
    lengths = np.array([len(answer) for _, answer in pairs], np.int32)
    return Dialogues(tokens, positions, segments, answers, lengths)


def join_answers(
    prompts: Batch,
    answers: Int[Array | np.ndarray, "rows new"],
    lengths: Int[Array | np.ndarray, " rows"],
) -> AnswerRows:
    """Left-padded prompts with answers behind them: one row each, of which answers count.

    Args:
      prompts: such as `Dialogues`, or any batch whose last column is of its prompts.
      answers: ids, padded on the right.
      lengths: tokens of each answer; nothing after them is seen or counts.
    """
    time, new = prompts.tokens.shape[1], answers.shape[1]
    place = jnp.arange(new, dtype=jnp.int32)[None]
    inside = place < jnp.asarray(lengths)[:, None]
    last = jnp.asarray(prompts.positions)[:, -1:]
    segment = jnp.asarray(prompts.segments)[:, -1:]
    parts = (
        (prompts.tokens, jnp.where(inside, jnp.asarray(answers), 0)),
        (prompts.positions, jnp.where(inside, last + 1 + place, 0)),
        (prompts.segments, jnp.where(inside, segment, 0)),
    )
    rows = (jnp.concatenate([jnp.asarray(one), two], axis=1) for one, two in parts)
    return AnswerRows(*rows, where=jnp.pad(inside, ((0, 0), (time - 1, 1))))


def _packed(name: str, pairs: Sequence[Pair], time: int) -> AnswerRows:
    _check(name, pairs)
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
    _check_fit(name, "prompt and answer", lengths, time)
    places = _places(lengths, time)
    shape = places[-1][0] + 1, time
    tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    where = np.zeros(shape, bool)
    for (prompt, answer), length, (row, start, segment) in zip(pairs, lengths, places):
        tokens[row, start : start + length] = [*prompt, *answer]
        positions[row, start : start + length] = np.arange(length)
        segments[row, start : start + length] = segment
        where[row, start + len(prompt) - 1 : start + length - 1] = True
    return AnswerRows(tokens, positions, segments, where)


def _places(lengths: list[int], time: int) -> list[tuple[int, int, int]]:
    """Row, first column and segment of each: into the last row, or a new one where it is full."""
    places, row, used, segment = [], 0, 0, 0
    for length in lengths:
        if used + length > time:
            row, used, segment = row + 1, 0, 0
        segment += 1
        places.append((row, used, segment))
        used += length
    return places


def _check(name: str, pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise ValueError(f"{name}: expected at least one prompt with an answer, got none")
    for index, (prompt, answer) in enumerate(pairs):
        for part, ids in (("prompt", prompt), ("answer", answer)):
            if not len(ids):
                raise ValueError(f"{name}[{index}]: expected a token or more of {part}, got none")


def _check_fit(name: str, what: str, lengths: list[int], time: int) -> None:
    for index, length in enumerate(lengths):
        if length > time:
            raise ValueError(
                f"{name}[{index}]: expected {what} of at most {time} tokens, got {length}: "
                "shorten it or make rows longer"
            )
