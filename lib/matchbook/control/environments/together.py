"""Single environments of a task, stepped one after the other in this process.

Unusual: every episode has a seed of its own, drawn from (seed, environment, episode), so that where
an environment stands is told by the episode's number and the actions taken in it. Going back means
playing them again (at most an episode), which restores whatever a simulator keeps to itself, also
what it has written into its model; the observation tells whether it did.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from matchbook.control.environments.interface import Steps


@runtime_checkable
class Instance(Protocol):
    """One environment."""

    @property
    def action_size(self) -> int:
        """Numbers in an action."""
        ...

    def reset(self, seed: int) -> Float[np.ndarray, " observation"]:
        """Start an episode that is a function of the seed and the actions."""
        ...

    def step(
        self, action: Float[np.ndarray, " dims"]
    ) -> tuple[Float[np.ndarray, " observation"], float, float, bool]:
        """Observation, reward, discount, and whether the episode is over."""
        ...


class Together:
    """Several instances of one task as `Environments`.

    Arguments:
        instances: one or more.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, instances: Sequence[Instance]):
        if not instances:
            raise ValueError("num must be 1 or more, got 0 environments")
        self._instances = list(instances)
        self.num, self.action_size = len(instances), instances[0].action_size
        self.observation_size = self.reset(0).shape[1]

    def reset(self, seed: int) -> Float[np.ndarray, "num observation"]:
        """Start over; see `Environments`."""
        self._seed = seed
        self._episodes = [-1] * self.num
        self._taken: list[list[np.ndarray]] = [[] for _ in self._instances]
        self._observations = np.stack([self._begin(i) for i in range(self.num)])
        return self._observations

    def step(self, actions: Float[np.ndarray, "num dims"]) -> Steps:
        """One action in each; see `Environments`."""
        shape = (self.num, self.observation_size)
        following, observations = np.empty(shape, np.float32), np.empty(shape, np.float32)
        rewards, discounts = np.empty(self.num, np.float64), np.empty(self.num, np.float64)
        last = np.empty(self.num, bool)
        for i, instance in enumerate(self._instances):
            taken = instance.step(actions[i])
            following[i], rewards[i], discounts[i], last[i] = taken
            self._taken[i].append(np.array(actions[i], np.float32))
            observations[i] = self._begin(i) if last[i] else following[i]
        self._observations = observations
        return Steps(following, rewards, discounts, last, observations)

    def get_state(self) -> dict[str, Any]:
        """The seed, each episode's number and actions, and the observations to check by."""
        empty = np.zeros((0, self.action_size), np.float32)
        return {
            "seed": self._seed,
            "episodes": list(self._episodes),
            "lengths": [len(taken) for taken in self._taken],
            "actions": np.concatenate([empty, *(np.stack(t) for t in self._taken if t)]),
            "observations": self._observations.copy(),
        }

    def set_state(
        self, state: dict[str, Any]
    ) -> tuple[Float[np.ndarray, "num observation"], Bool[np.ndarray, " num"]]:
        """Play the actions again; see `Environments`."""
        self._seed = int(state["seed"])
        self._episodes = [int(episode) - 1 for episode in state["episodes"]]
        expected, actions = np.asarray(state["observations"]), np.asarray(state["actions"])
        ends = np.cumsum([int(length) for length in state["lengths"]])
        self._observations = np.empty_like(expected)
        for i, taken in enumerate(np.split(actions, ends[:-1])):
            self._observations[i] = self._begin(i)
            for action in taken:
                self._observations[i] = self._instances[i].step(action)[0]
            self._taken[i] = list(taken)
        continued = (self._observations == expected).all(axis=1)
        for i in np.flatnonzero(~continued):
            self._observations[i] = self._begin(int(i))
        if not continued.all():
            warnings.warn(
                f"environments {np.flatnonzero(~continued).tolist()} do not repeat an episode from "
                "its seed and actions: they start a new one, and the resumed run will differ from "
                "an uninterrupted one",
                stacklevel=2,
            )
        return self._observations, continued

    def _begin(self, i: int) -> Float[np.ndarray, " observation"]:
        self._episodes[i] += 1
        self._taken[i] = []
        sequence = np.random.SeedSequence((self._seed, i, self._episodes[i]))
        return self._instances[i].reset(int(sequence.generate_state(1)[0]))
