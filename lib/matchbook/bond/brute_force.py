"""Best-of-N from its definition: go through every N-tuple of answers and count who wins.

K^N tuples, in float64 NumPy and without a single formula of the paper: the truth that Theorem 1 is
checked against.
"""

import itertools
from typing import Literal

import numpy as np

TieBreak = Literal["first", "last", "random"]


def pmf(probs: np.ndarray, rewards: np.ndarray, n: int, ties: TieBreak = "first") -> np.ndarray:
    """Probability that each answer wins among `n` independent draws.

    Args:
      probs: the reference's probabilities, float ``[..., answers]``.
      rewards: same shape; the highest in the tuple wins.
      n: number of draws. Costs answers^n tuples for each example.
      ties: which of the tied *samples* wins; the result does not depend on it.

    Raises:
      ValueError: above 10 million tuples.
    """
    answers = probs.shape[-1]
    if answers**n > 10_000_000:
        raise ValueError(f"{answers}^{n} tuples are too many: take fewer answers or a smaller n")
    wins = np.zeros(probs.shape)
    for drawn in itertools.product(range(answers), repeat=n):
        drawn = np.array(drawn)
        probability = probs[..., drawn].prod(axis=-1)
        best = rewards[..., drawn] == rewards[..., drawn].max(axis=-1, keepdims=True)
        share = _winners(best, ties) * probability[..., None]
        for position, answer in enumerate(drawn):
            wins[..., answer] += share[..., position]
    return wins


def _winners(best, ties):
    """The share of the prize that each drawn sample gets, summing to one over the tuple."""
    if ties == "random":
        return best / best.sum(axis=-1, keepdims=True)
    if ties == "last":
        return _winners(best[..., ::-1], "first")[..., ::-1]
    if ties == "first":
        return best & (best.cumsum(axis=-1) == 1)
    raise ValueError(f"ties are won by the 'first', 'last' or a 'random' sample, got {ties!r}")
