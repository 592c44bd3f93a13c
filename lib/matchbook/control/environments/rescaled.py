"""Any environments with their rewards multiplied: the same task in another unit.

For what Shahriari et al. 2022 say of critics that must be told the range of returns: the best
policy is the same in every unit, so an agent that learns differently depends on it.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from matchbook.control.environments.interface import Environments, Steps


class RescaledRewards:
    """`Environments` whose rewards are `scale` times those of others; all else is theirs.

    Arguments:
        environments: to be wrapped.
        scale: above 0, since a task times -1 is another task.

    Raises:
        ValueError: the scale is not a finite number above 0.
    """

    def __init__(self, environments: Environments, scale: int | float):
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale must be a finite number above 0, got {scale}")
        self._environments, self.scale = environments, scale
        self.num = environments.num
        self.observation_size = environments.observation_size
        self.action_size = environments.action_size

    def reset(self, seed: int) -> Float[np.ndarray, "num observation"]:
        """Start over; see `Environments`."""
        return self._environments.reset(seed)

    def step(self, actions: Float[np.ndarray, "num dims"]) -> Steps:
        """One action in each; see `Environments`."""
        steps = self._environments.step(actions)
        return steps._replace(rewards=self.scale * steps.rewards)

    def get_state(self) -> dict[str, Any]:
        """Where the wrapped environments are."""
        return self._environments.get_state()

    def set_state(
        self, state: dict[str, Any]
    ) -> tuple[Float[np.ndarray, "num observation"], Bool[np.ndarray, " num"]]:
        """Go back there; see `Environments`."""
        return self._environments.set_state(state)
