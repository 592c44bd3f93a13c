"""n-step transitions out of the stream of steps of several environments.

As the paper's code has them: at the start of an episode the first state begins transitions of
length 1 to n, and at the end every state still waiting gets a shorter one. So each environment step
gives one transition, and each end of an episode up to n - 1 more.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from matchbook.control.environments.interface import Steps


class Transition(NamedTuple):
    """`rewards + discounts * Z(next_observations)` is the n-step return of the first two fields.

    Leaves are `[*batch, observation]`, `[*batch, dims]`, `[*batch]`, `[*batch]` and
    `[*batch, observation]`; `discounts` holds everything: powers of the discount, and 0 where the
    episode came to its own end within these steps.
    """

    observations: Any
    actions: Any
    rewards: Any
    discounts: Any
    next_observations: Any


class NStep:
    """The steps whose transitions are still growing, for every environment.

    Arguments:
        num: environments.
        n: steps in a full transition.
        discount: for each step, in (0, 1].

    Raises:
        ValueError: `n` or `discount` is out of range.
    """

    def __init__(
        self, num: int, observation_size: int, action_size: int, *, n: int, discount: int | float
    ):
        if n < 1:
            raise ValueError(f"n must be 1 or more, got {n}; the paper has 5")
        if not 0 < discount <= 1:
            raise ValueError(f"discount must be in (0, 1], got {discount}; the paper has 0.99")
        self._n, self._discount = n, discount
        # Slot t % n of an environment holds what began at step t of its episode.
        self._observations = np.zeros((num, n, observation_size), np.float32)
        self._actions = np.zeros((num, n, action_size), np.float32)
        self._rewards = np.zeros((num, n), np.float64)
        self._discounts = np.zeros((num, n), np.float64)
        self._lengths = np.zeros(num, np.int64)

    def add(
        self,
        observations: Float[np.ndarray, "num observation"],
        actions: Float[np.ndarray, "num dims"],
        steps: Steps,
    ) -> Transition:
        """Take one step of every environment; return the transitions it completes, `[batch]` many,
        environment by environment, oldest first.
        """
        everyone, lengths = np.arange(len(actions)), self._lengths
        slots = lengths % self._n
        self._observations[everyone, slots] = observations
        self._actions[everyone, slots] = actions
        self._rewards[everyone, slots], self._discounts[everyone, slots] = 0, 1
        # Slots that a short episode has not reached yet are grown too, and never read.
        self._rewards += self._discounts * steps.rewards[:, None]
        self._discounts *= self._discount * steps.discounts[:, None].astype(np.float64)
        oldest = np.maximum(lengths - self._n + 1, 0)
        counts = np.where(steps.last, lengths - oldest + 1, 1)
        rows = np.repeat(everyone, counts)
        offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        picked = rows, (oldest[rows] + offsets) % self._n
        self._lengths = np.where(steps.last, 0, lengths + 1)
        return Transition(
            self._observations[picked],
            self._actions[picked],
            self._rewards[picked].astype(np.float32),
            self._discounts[picked].astype(np.float32),
            steps.next_observations[rows],
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """A copy of all that is growing."""
        return {name: value.copy() for name, value in self._arrays().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `get_state` gave."""
        for name, value in self._arrays().items():
            value[...] = state[name]

    def forget(self, where: np.ndarray) -> None:
        """Drop what is growing in some environments (a mask `[num]`): their episodes are lost."""
        self._lengths[where] = 0

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "observations": self._observations,
            "actions": self._actions,
            "rewards": self._rewards,
            "discounts": self._discounts,
            "lengths": self._lengths,
        }
