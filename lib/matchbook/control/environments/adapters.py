"""A user's own environments: one function each for dm_env and for Gymnasium.

Neither package is imported here. A time limit leaves the discount at 1; an episode that the task
itself ends has discount 0.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from matchbook.control.environments.interface import ActionScale, flatten
from matchbook.control.environments.together import Together

Outcome = tuple[Float[np.ndarray, " observation"], float, float, bool]


def from_dm_env(factory: Callable[[int], Any], num: int) -> Together:
    """`num` environments of a task that speaks dm_env.

    Arguments:
        factory: `factory(seed) -> dm_env.Environment`. It is called once for each environment if
            that has a `numpy.random.RandomState` as `task.random` (dm-control's suite) or as
            `random_state` (its composer), which is then seeded before every episode; otherwise
            once for each episode.
        num: how many.

    Raises:
        TypeError: `factory` is an environment or a name, not a function.
        ValueError: actions are not real numbers between finite bounds.
    """
    _check_factory(factory, "lambda seed: suite.load('cartpole', 'swingup')")
    return Together([DmEnv(factory) for _ in range(num)])


def from_gymnasium(factory: Callable[[], Any], num: int) -> Together:
    """`num` environments of a task that speaks Gymnasium's API, 0.26 or later.

    Arguments:
        factory: `factory() -> gymnasium.Env`, with a bounded `Box` of actions and observations of
            arrays, dicts or tuples. `reset(seed=...)` seeds every episode.
        num: how many.

    Raises:
        TypeError: `factory` is an environment or a name, not a function.
        ValueError: actions are not real numbers between finite bounds.
    """
    _check_factory(factory, "lambda: gymnasium.make('Pendulum-v1')")
    return Together([_Gymnasium(factory()) for _ in range(num)])


class DmEnv:
    """One of them; `environment` is the user's own, as it is now."""

    def __init__(self, factory: Callable[[int], Any]):
        self._factory, self.environment = factory, factory(0)
        spec = self.environment.action_spec()
        low, high = getattr(spec, "minimum", -np.inf), getattr(spec, "maximum", np.inf)
        low, high = np.broadcast_to(low, spec.shape), np.broadcast_to(high, spec.shape)
        self._scale = ActionScale(low, high, spec.dtype)
        self.action_size = self._scale.size

    def reset(self, seed: int) -> Float[np.ndarray, " observation"]:
        task = getattr(self.environment, "task", None)
        random = getattr(task, "random", getattr(self.environment, "random_state", None))
        if isinstance(random, np.random.RandomState):
            random.seed(seed)
        else:
            self.environment = self._factory(seed)
        return flatten(self.environment.reset().observation)

    def step(self, action: Float[np.ndarray, " dims"]) -> Outcome:
        step = self.environment.step(self._scale(action))
        return flatten(step.observation), float(step.reward), float(step.discount), step.last()


class _Gymnasium:
    def __init__(self, environment: Any):
        self._environment, space = environment, environment.action_space
        low, high = getattr(space, "low", -np.inf), getattr(space, "high", np.inf)
        self._scale = ActionScale(low, high, space.dtype)
        self.action_size = self._scale.size

    def reset(self, seed: int) -> Float[np.ndarray, " observation"]:
        return flatten(self._environment.reset(seed=seed)[0])

    def step(self, action: Float[np.ndarray, " dims"]) -> Outcome:
        outcome = self._environment.step(self._scale(action))
        if len(outcome) != 5:
            raise ValueError(
                "step must return observation, reward, terminated, truncated and info, as in "
                f"Gymnasium since 0.26; got {len(outcome)} values"
            )
        following, reward, ended, cut, _ = outcome
        return flatten(following), float(reward), 0.0 if ended else 1.0, bool(ended or cut)


def _check_factory(factory: Any, example: str) -> None:
    """Several environments are made, so a finished one is of no use."""
    if not callable(factory):
        raise TypeError(
            f"factory must be a function that makes an environment, such as {example}; got "
            f"{type(factory).__name__}"
        )
