"""Uniform replay of transitions in one preallocated block.

A transition is a row of float32: observation, action, reward, discount, next observation. Unusual:
the operating system hands out the block's memory as it fills, so a large capacity costs nothing
before it is used (1 M transitions of walker: 0.22 GB; of humanoid: 0.63 GB; of dog: 1.9 GB).
"""

import numpy as np
from jaxtyping import Float

from matchbook.control.transitions import Transition


class Replay:
    """The newest `capacity` transitions.

    Arguments:
        capacity: transitions kept; the oldest make room.

    Raises:
        ValueError: `capacity` is below 1.
    """

    def __init__(self, capacity: int, observation_size: int, action_size: int):
        if capacity < 1:
            raise ValueError(f"capacity must be 1 or more, got {capacity}")
        widths = [observation_size, action_size, 1, 1, observation_size]
        self._edges = np.cumsum(widths)
        self._rows = np.zeros((capacity, self._edges[-1]), np.float32)
        self.inserted = 0  # since the beginning, the forgotten ones too

    def __len__(self) -> int:
        return min(self.inserted, len(self._rows))

    def add(self, transitions: Transition) -> None:
        """Insert transitions, in order."""
        fields = [np.reshape(x, (len(transitions.rewards), -1)) for x in transitions]
        rows = np.concatenate(fields, axis=-1)
        # Of more rows than fit, only the last of those that share a place may be written.
        kept = np.arange(max(0, len(rows) - len(self._rows)), len(rows))
        self._rows[(self.inserted + kept) % len(self._rows)] = rows[kept]
        self.inserted += len(rows)

    def sample(self, random: np.random.Generator, shape: tuple[int, ...]) -> Transition:
        """Transitions drawn evenly, with replacement; leaves `[*shape, ...]`.

        Raises:
            ValueError: there are none.
        """
        if not len(self):
            raise ValueError("replay is empty: add transitions before sampling")
        rows = self._rows[random.integers(len(self), size=shape)]
        return self._split(rows)

    def get_state(self) -> dict[str, np.ndarray | int]:
        """A copy of what is there."""
        return {"rows": self._rows[: len(self)].copy(), "inserted": self.inserted}

    def set_state(self, state: dict[str, np.ndarray | int]) -> None:
        """Go on from what `get_state` gave."""
        rows = np.asarray(state["rows"])
        self._rows[: len(rows)] = rows
        self.inserted = int(state["inserted"])

    def _split(self, rows: Float[np.ndarray, "*batch width"]) -> Transition:
        observations, actions, rewards, discounts, following, _ = np.split(rows, self._edges, -1)
        return Transition(observations, actions, rewards[..., 0], discounts[..., 0], following)
