"""Documents laid end to end into rows of equal length, without letting one see another.

A row holds parts of several documents, numbered by `segments`; `positions` restart with each part:

    tokens     bos  a   b  eos bos  c   d   e        e' eos bos  f  pad pad pad pad
    segments    1   1   1   1   2   2   2   2         1   1   2   2   0   0   0   0
    positions   0   1   2   3   0   1   2   3         0   1   0   1   0   0   0   0

Every token stands in exactly one place. A token is a target where the one before it is of the same
segment, so a document's first token never is, nor the first of a row: 1 token in `time`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from matchbook.corpus.tokenizer import Tokenizer


class Encoded(NamedTuple):
    """Documents as ids, each `bos ... eos`, joined: int32 `tokens` [n], `lengths` [documents]."""

    tokens: Int[np.ndarray, " n"]
    lengths: Int[np.ndarray, " documents"]


class Rows(NamedTuple):
    """Rows for a model: int32 `tokens`, `positions`, `segments`, each [rows, time].

    A batch is the same with fewer rows. Segment 0 is padding.
    """

    tokens: Int[np.ndarray, "rows time"]
    positions: Int[np.ndarray, "rows time"]
    segments: Int[np.ndarray, "rows time"]


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> Encoded:
    """Each text between a bos and an eos."""
    documents = [
        np.array([tokenizer.bos, *ids, tokenizer.eos], np.int32)
        for ids in tokenizer.encode_all(texts)
    ]
    lengths = np.array([len(ids) for ids in documents], np.int64)
    return Encoded(np.concatenate([np.zeros(0, np.int32), *documents]), lengths)


def pack(encoded: Encoded, time: int) -> Rows:
    """Rows of `time` tokens; only the last one is padded.

    Raises:
      ValueError: `time` below 2, or nothing to pack.
    """
    if time < 2:
        raise ValueError(f"time: expected at least 2 tokens a row, got {time}")
    total = len(encoded.tokens)
    if total == 0:
        raise ValueError("encoded: nothing to pack, expected at least one document")
    num_rows = -(-total // time)
    ends = np.cumsum(encoded.lengths)
    place = np.arange(total)
    row_start = place // time * time
    document = np.searchsorted(ends, place, side="right")
    document_start = (ends - encoded.lengths)[document]
    positions = place - np.maximum(document_start, row_start)
    segments = 1 + document - document[row_start]

    def rows(values: np.ndarray) -> np.ndarray:
        padded = np.zeros(num_rows * time, np.int32)
        padded[:total] = values
        return padded.reshape(num_rows, time)

    return Rows(rows(encoded.tokens), rows(positions), rows(segments))


def spread(rows: Rows, count: int) -> Rows:
    """About `count` rows at equal distances, so that they come from as many documents as can be.

    All rows where there are no more than that.
    """
    total = len(rows.tokens)
    return take(rows, np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)))


def take[AnyRows: tuple[Any, ...]](
    rows: AnyRows, index: slice | Int[np.ndarray, " rows"]
) -> AnyRows:
    """Some of the rows: of `Rows`, or of another named tuple of arrays that begin with rows."""
    return type(rows)(*(values[index] for values in rows))
