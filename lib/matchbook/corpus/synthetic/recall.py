"""Pairs early in the row, asked for again at an exact distance: the control of Table 10.

    text .. k1 v1 k2 v2 k3 v3 .. text .. k1 v1 k2 v2 k3 v3
                           `--- distance ---'               from the second k3 back to the first v3

The answers (the second v's) cannot be guessed from what is near, so a model without reach, such as
one of local layers with too short a window, must fail. All answers of a row are equally far.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from matchbook.corpus.synthetic.fresh import Fresh


class RecallRows(NamedTuple):
    """Rows for a model, as `corpus.Rows`, and what is asked in them.

    where: True where the next token is an answer: the only targets that count.
    distances: from the place where an answer is predicted back to that value in the pairs. A
      sliding window, which counts the token itself, reaches it if it is larger than that.
    """

    tokens: Int[np.ndarray, "rows time"]
    positions: Int[np.ndarray, "rows time"]
    segments: Int[np.ndarray, "rows time"]
    where: Bool[np.ndarray, "rows time"]
    distances: Int[np.ndarray, " rows"]


@dataclasses.dataclass(frozen=True)
class Recall:
    """The task. Of the vocabulary a quarter are keys, a quarter values, and the rest is text.

    Attributes:
      vocab_size: tokens; 0 is left to padding.
      num_pairs: in a row, and asked for in the same order; keys differ, and so do values.
      time: tokens in a row.

    Raises:
      ValueError: fewer keys than pairs, or a row too short to ask for them all.
    """

    vocab_size: int = 128
    num_pairs: int = 4
    time: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.num_pairs <= self.num_values:
            raise ValueError(
                f"num_pairs: expected 1 to {self.num_values}, a quarter of the vocabulary of "
                f"{self.vocab_size}, got {self.num_pairs}"
            )
        if self.time < 4 * self.num_pairs:
            raise ValueError(
                f"time: expected at least {4 * self.num_pairs} tokens, for {self.num_pairs} pairs "
                f"told and asked, got {self.time}"
            )

    @property
    def num_values(self) -> int:
        """Blind guessing is right once in so many times."""
        return self.vocab_size // 4

    @property
    def shortest(self) -> int:
        """The smallest distance: the pairs stand just before the questions."""
        return 2 * self.num_pairs - 1

    @property
    def longest(self) -> int:
        """The largest distance: the pairs begin the row."""
        return self.time - 2 * self.num_pairs - 1

    def rows(self, distances: Int[np.ndarray, " rows"], seed: int | tuple[int, ...]) -> RecallRows:
        """One row for each distance asked for.

        Raises:
          ValueError: a distance that does not fit in a row.
        """
        distances = np.asarray(distances, np.int32)
        outside = distances[(distances < self.shortest) | (distances > self.longest)]
        if outside.size:
            raise ValueError(
                f"distances: expected {self.shortest} to {self.longest}, for {self.num_pairs} "
                f"pairs in rows of {self.time}, got {outside[0]}"
            )
        random = np.random.default_rng(seed)
        shape, width = (len(distances), self.time), 2 * self.num_pairs
        tokens = random.integers(2 * self.num_values + 1, self.vocab_size, shape, dtype=np.int32)
        pairs = np.empty((len(distances), width), np.int32)
        pairs[:, 0::2] = 1 + self._choose(random, len(distances))
        pairs[:, 1::2] = 1 + self.num_values + self._choose(random, len(distances))
        asked = self.time - width
        told = asked - 1 - distances  # a key and its repetition are one further apart
        np.put_along_axis(tokens, told[:, None] + np.arange(width), pairs, axis=1)
        tokens[:, asked:] = pairs
        where = np.zeros(shape, bool)
        where[:, asked::2] = True
        positions = np.tile(np.arange(self.time, dtype=np.int32), (len(distances), 1))
        return RecallRows(tokens, positions, np.ones_like(tokens), where, distances)

    def stream(
        self, batch_size: int, distances: Int[np.ndarray, " choices"], seed: int
    ) -> Fresh[RecallRows]:
        """Unlimited rows, each at one of the distances, drawn evenly."""

        def batch(step: int) -> RecallRows:
            drawn = np.random.default_rng((seed, step, 1)).choice(distances, batch_size)
            return self.rows(drawn, seed=(seed, step))

        return Fresh(batch)

    def _choose(self, random: np.random.Generator, num_rows: int) -> Int[np.ndarray, "rows pairs"]:
        """Different numbers in each row, below `num_values`."""
        return random.random((num_rows, self.num_values)).argsort(axis=1)[:, : self.num_pairs]


def accuracy(
    logits: Float[np.ndarray, "rows time vocab"], rows: RecallRows
) -> Float[np.ndarray, " rows"]:
    """The share of each row's answers to which the model gives the most; group it by distance."""
    right = logits[:, :-1].argmax(axis=-1) == rows.tokens[:, 1:]
    asked = rows.where[:, :-1]
    return (right & asked).sum(axis=1) / asked.sum(axis=1)
