"""The linear-quadratic problem of `closed_forms` as environments, all at once in NumPy.

Its optimal actions and values are formulas: what an agent learns here can be checked to the digit.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from matchbook.control.closed_forms import LinearQuadratic
from matchbook.control.environments.interface import Steps


class LinearQuadraticEnvironments:
    """`x' = a x + b u + w`, reward `-(q x^2 + r u^2)`; the observation is `x`, cut off by time.

    Arguments:
        problem: its numbers. Its `discount` is the agent's.
        num: how many.
        max_action: `u` is this times an action in [-1, 1]; above what the optimum needs, or its
            formula does not hold.
        start_std: of the first `x`, around 0.
        time_limit: steps in an episode.
    """

    observation_size = 1
    action_size = 1

    def __init__(
        self,
        problem: LinearQuadratic,
        num: int,
        *,
        max_action: int | float,
        start_std: int | float = 1.0,
        time_limit: int = 50,
    ):
        self.problem, self.num, self.max_action = problem, num, max_action
        self._start_std, self._time_limit = start_std, time_limit
        self.reset(0)

    def reset(self, seed: int) -> Float[np.ndarray, "num observation"]:
        """Start over; see `Environments`."""
        self._random = np.random.default_rng(seed)
        self._x = self._start_std * self._random.standard_normal(self.num)
        self._time = 0
        return self._observe(self._x)

    def step(self, actions: Float[np.ndarray, "num dims"]) -> Steps:
        """One action in each; see `Environments`."""
        u = self.max_action * np.clip(actions[:, 0].astype(np.float64), -1, 1)
        rewards = -(self.problem.q * self._x**2 + self.problem.r * u**2)
        noise = self.problem.noise * self._random.standard_normal(self.num)
        self._x = self.problem.a * self._x + self.problem.b * u + noise
        following, self._time = self._observe(self._x), self._time + 1
        last = np.full(self.num, self._time == self._time_limit)
        if last.all():
            self._x = self._start_std * self._random.standard_normal(self.num)
            self._time = 0
        return Steps(following, rewards, np.ones(self.num), last, self._observe(self._x))

    def get_state(self) -> dict[str, Any]:
        """States, time, and the noise to come."""
        noise: Any = self._random.bit_generator.state
        return {"x": self._x.copy(), "time": self._time, "random": noise}

    def set_state(
        self, state: dict[str, Any]
    ) -> tuple[Float[np.ndarray, "num observation"], Bool[np.ndarray, " num"]]:
        """Exactly there again; see `Environments`."""
        self._x, self._time = np.array(state["x"]), int(state["time"])
        self._random.bit_generator.state = state["random"]
        return self._observe(self._x), np.ones(self.num, bool)

    def _observe(self, x: Float[np.ndarray, " num"]) -> Float[np.ndarray, "num observation"]:
        return x[:, None].astype(np.float32)
