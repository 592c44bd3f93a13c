"""Passages planted 0, 1, 2, 4 ... 64 times into a corpus: how many times until a model knows them?

For Figure 1 and section 7 of the Gemma 2 report: 50 tokens are the prompt, the next 50 are what a
model should not give back. Unusual: the number of copies is exact. A passage that the corpus holds
twice is not chosen, the one that is chosen is cut out, and no copy is broken by the end of a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from matchbook.corpus.packing import Encoded

PROMPT_TOKENS = CONTINUATION_TOKENS = 50
PASSAGE = PROMPT_TOKENS + CONTINUATION_TOKENS
LENGTH = 1 + PASSAGE + 1  # a planted document: bos, passage, eos
PROMPT = slice(0, 1 + PROMPT_TOKENS)  # its places in that document; with the bos
CONTINUATION = slice(1 + PROMPT_TOKENS, 1 + PASSAGE)
COPIES = (0, 1, 2, 4, 8, 16, 32, 64)  # 0: the control, what a model says of text it has not read


class Passages(NamedTuple):
    """What was planted, one entry a passage.

    source: the name of the source it is from.
    document: the index of its document there; what stands around the passage stays in the corpus.
    copies: how often the corpus holds it.
    tokens: the planted document; `tokens[:, PROMPT]` and `tokens[:, CONTINUATION]` are its halves.
    """

    source: np.ndarray
    document: Int[np.ndarray, " passages"]
    copies: Int[np.ndarray, " passages"]
    tokens: Int[np.ndarray, "passages length"]


class Planted(NamedTuple):
    """Documents to train on, for `corpus.pack` with the same `time`, and what was planted."""

    encoded: Encoded
    passages: Passages


def plant(
    documents: Mapping[str, Encoded],
    *,
    time: int,
    per_level: int,
    seed: int,
    copies: Sequence[int] = COPIES,
) -> Planted:
    """Cuts passages out of each source and puts copies of them back, each a document.

    The order of all documents is drawn anew. A copy stands whole in one row; the document that it
    interrupts goes on behind it as at the beginning of a row, without a bos.

    Args:
      documents: source -> its documents, as `corpus.encode` makes them.
      time: tokens in a row.
      per_level: passages of each source for each number of copies.
      seed: of the choice and the order.
      copies: how often passages are planted.

    Raises:
      ValueError: rows too short for a planted document, too few documents that are long enough
        and unlike the others, or too little text around the copies.
    """
    if time < LENGTH:
        raise ValueError(f"time: expected rows of at least {LENGTH} tokens, got {time}")
    if not documents:
        raise ValueError("documents: expected at least one source, got none")
    if per_level < 1 or not copies or min(copies) < 0:
        raise ValueError(
            f"expected at least one passage a level and copies of 0 or more, got "
            f"per_level={per_level}, copies={tuple(copies)}"
        )
    random = np.random.default_rng(seed)
    everything = np.concatenate([encoded.tokens for encoded in documents.values()])
    haystack, levels = everything.astype(np.int32).tobytes(), np.repeat(copies, per_level)
    chosen, kept = [], []
    for source, encoded in documents.items():
        found = _choose(source, encoded, haystack, len(levels), random)
        each = list(_each(encoded))
        for (document, start), count in zip(found.items(), levels, strict=True):
            tokens, end = each[document], start + PASSAGE
            planted = np.concatenate([tokens[:1], tokens[start:end], tokens[-1:]])
            chosen.append((source, document, count, planted.astype(np.int32)))
            each[document] = tokens[:start]
            each.append(tokens[end:])
        kept += each
    passages = Passages(*(np.array(column) for column in zip(*chosen, strict=True)))
    order = random.permutation(len(kept))
    return Planted(_lay_out([kept[i] for i in order], passages, time, random), passages)


def _choose(
    source: str, encoded: Encoded, haystack: bytes, number: int, random: np.random.Generator
) -> dict[int, int]:
    """Document index -> where in it a passage starts."""
    each, found = list(_each(encoded)), {}
    for index in random.permutation(len(each)).tolist():
        if len(found) == number:
            break
        tokens = each[index]
        if len(tokens) < LENGTH:
            continue
        start = int(random.integers(1, len(tokens) - PASSAGE))
        if not _twice(tokens[start : start + PASSAGE], haystack):
            found[index] = start
    if len(found) < number:
        raise ValueError(
            f"source {source!r}: expected {number} documents of at least {LENGTH} tokens with a "
            f"passage found nowhere else, got {len(found)} of {len(each)}: give more text, or ask "
            "for fewer passages per level"
        )
    return found


def _twice(passage: Int[np.ndarray, " passage"], haystack: bytes) -> bool:
    """Whether int32 tokens occur a second time; one place is their own."""
    needle, places, at = passage.astype(np.int32).tobytes(), 0, -1
    while places < 2 and (at := haystack.find(needle, at + 1)) >= 0:
        places += at % 4 == 0  # bytes may agree across tokens
    return places == 2


def _each(encoded: Encoded) -> Iterator[Int[np.ndarray, "_"]]:
    ends = np.cumsum(encoded.lengths)
    for start, end in zip((ends - encoded.lengths).tolist(), ends.tolist(), strict=True):
        yield encoded.tokens[start:end]


def _lay_out(
    background: Sequence[Int[np.ndarray, "_"]],
    passages: Passages,
    time: int,
    random: np.random.Generator,
) -> Encoded:
    """Copies at random places that no row's end cuts; the background flows around them."""
    planted = np.repeat(passages.tokens, passages.copies, axis=0)
    lengths = np.array([len(tokens) for tokens in background])
    total, in_row = int(lengths.sum()) + planted.size, time // LENGTH
    slots = total // time * in_row
    if len(planted) > slots:
        raise ValueError(
            f"{len(planted):,} copies need at least {-(-len(planted) // in_row) * time:,} tokens "
            f"in rows of {time}, got {total:,}: give more text, or plant fewer"
        )
    slot = random.permutation(slots)[: len(planted)]
    starts = slot // in_row * time + slot % in_row * LENGTH
    places = starts[:, None] + np.arange(LENGTH)
    document = np.full(total, -1)
    document[places] = len(background) + np.arange(len(planted))[:, None]
    free = document < 0
    document[free] = np.repeat(np.arange(len(background)), lengths)
    tokens = np.empty(total, np.int32)
    tokens[places] = planted
    tokens[free] = np.concatenate([np.zeros(0, np.int32), *background])
    changes = np.flatnonzero(np.diff(document)) + 1
    return Encoded(tokens, np.diff(np.concatenate([[0], changes, [total]])))
