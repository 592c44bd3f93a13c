"""What a check returns, and the random answer spaces that checks are made on."""

from typing import NamedTuple

import numpy as np

Curve = tuple[np.ndarray, np.ndarray]

# The space that is drawn: ten answers from bad to good, with one tie of two and one of three.
DEMO_PROBS = np.array([0.17, 0.06, 0.14, 0.10, 0.16, 0.05, 0.11, 0.09, 0.08, 0.04])
DEMO_REWARDS = np.array([0.0, 1, 2, 2, 3, 4, 4, 4, 5, 6])
MANY = 4096  # equally likely answers: nearly a continuous reference


class Checked(NamedTuple):
    """Numbers by name, and curves (x, y) by name."""

    numbers: dict[str, float]
    curves: dict[str, Curve]

    def __or__(self, other: "Checked") -> "Checked":
        return Checked(self.numbers | other.numbers, self.curves | other.curves)


def random_spaces(seed: int, cases: int, answers: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and whole-numbered rewards, both ``[cases, answers]``.

    Some spaces have answers all alike, some are dominated by one; and since the number of reward
    levels is drawn between 2 and twice the answers, some have many ties and some none.
    """
    rng = np.random.default_rng(seed)
    concentration = np.exp(rng.uniform(np.log(0.1), np.log(3), size=(cases, 1)))
    weights = rng.gamma(concentration, size=(cases, answers)) + 1e-9
    levels = rng.integers(2, 2 * answers + 1, size=(cases, 1))
    rewards = rng.integers(0, levels, size=(cases, answers))
    return weights / weights.sum(axis=-1, keepdims=True), rewards.astype(float)


def largest(values: object) -> float:
    """The largest absolute value in an array."""
    return float(np.abs(np.asarray(values)).max())
