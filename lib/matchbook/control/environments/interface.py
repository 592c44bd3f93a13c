"""What an agent asks of its environments: several of one task, stepped together.

The control tasks of Shahriari et al. 2022 and any other. Unusual: `step` starts the next episode by
itself and returns both observations, the last of the old episode and the first of the new one.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

UNBOUNDED = 1e10  # MuJoCo's own mark of an actuator without limits


class Steps(NamedTuple):
    """What one action in every environment led to.

    Arguments:
        next_observations: `Float32[num observation]`, after the action.
        rewards: `Float[num]`, in the task's own unit.
        discounts: `Float[num]`: 0 where the task itself ended the episode, 1 otherwise; also where
            a time limit did, since the state could have gone on.
        last: `Bool[num]`, whether the episode is over.
        observations: `Float32[num observation]`, to act on next: the first one of a new episode
            where `last`, `next_observations` elsewhere.
    """

    next_observations: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    last: np.ndarray
    observations: np.ndarray


@runtime_checkable
class Environments(Protocol):
    """Several environments of one task; flat float32 observations, actions in [-1, 1]."""

    @property
    def num(self) -> int:
        """How many."""
        ...

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        ...

    @property
    def action_size(self) -> int:
        """Numbers in an action."""
        ...

    def reset(self, seed: int) -> Float[np.ndarray, "num observation"]:
        """Start over: all that follows is a function of the seed and the actions."""
        ...

    def step(self, actions: Float[np.ndarray, "num dims"]) -> Steps:
        """One action in each; what lies outside [-1, 1] is clipped."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Where they are, as a plain tree of arrays and numbers."""
        ...

    def set_state(
        self, state: dict[str, Any]
    ) -> tuple[Float[np.ndarray, "num observation"], Bool[np.ndarray, " num"]]:
        """Go back there: the observations to act on, and which environments are where they were.
        The others start a new episode, and a warning says so.
        """
        ...


class NonFiniteStep(ArithmeticError):
    """An observation, action or reward is NaN or infinite.

    Attributes:
        step: of this environment, counted from 1 since it was made or evaluation began.
        environment: its index.
        field: "action", "observation" or "reward".
    """

    def __init__(self, step: int, environment: int, field: str, value: Any):
        super().__init__(
            f"the {field} of environment {environment} is not finite at its step {step}: {value}. "
            "Nothing was learned from it; look at the task there, or at the policy for an action"
        )
        self.step, self.environment, self.field = step, environment, field


def check_finite(step: int, **fields: np.ndarray) -> None:
    """Stop where a field (leaves `[num, ...]`) has a value that is not finite.

    Raises:
        NonFiniteStep: naming the step, the first such environment and the field.
    """
    for field, values in fields.items():
        if not np.isfinite(values).all():
            finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            environment = int(np.argmin(finite))
            raise NonFiniteStep(step, environment, field, values[environment])


class ActionScale:
    """From actions in [-1, 1] to a task's own bounds.

    Arguments:
        low, high: the bounds, of any shape.
        dtype: of the task's actions.

    Raises:
        ValueError: the task's actions are not bounded real numbers.
    """

    def __init__(self, low: Any, high: Any, dtype: Any):
        self._low, self._high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        bounded = max(np.abs(self._low).max(), np.abs(self._high).max()) < UNBOUNDED
        if not np.issubdtype(dtype, np.floating) or not bounded:
            raise ValueError(
                f"actions must be real numbers between finite bounds, got {np.dtype(dtype)} "
                f"between {low} and {high}; wrap the environment so that they are"
            )
        self._dtype, self.size = dtype, self._low.size

    def __call__(self, actions: Float[np.ndarray, "*num dims"]) -> np.ndarray:
        """The task's own actions, `[*num, *shape]`."""
        shares = 0.5 * (np.clip(actions, -1, 1).astype(np.float64) + 1)
        shares = shares.reshape(*actions.shape[:-1], *self._low.shape)
        return (self._low + shares * (self._high - self._low)).astype(self._dtype)


def flatten(observation: Any) -> Float[np.ndarray, " observation"]:
    """Arrays in dicts, tuples or lists, in their order, as one float32 vector.

    Raises:
        ValueError: something in there is not a number.
    """
    if hasattr(observation, "values") and callable(observation.values):
        observation = tuple(observation.values())
    if isinstance(observation, tuple | list):
        return np.concatenate([flatten(part) for part in observation])
    try:
        return np.asarray(observation, np.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        text = f"observations must be made of numbers, got {observation!r}; wrap the environment"
        raise ValueError(text) from error
