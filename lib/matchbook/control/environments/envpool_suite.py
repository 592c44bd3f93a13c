"""EnvPool's C++ dm-control suite: all environments stepped by threads at once.

Needs the extra `envpool`. Unusual: the layout of observations is taken from dm-control, since
EnvPool adds fields that a task does not have; and what its resets say of reward is not read, since
nothing is written there. A simulator's state cannot be taken out: a resumed run starts new
episodes.
"""

import importlib
import os
import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from matchbook.control.environments.interface import ActionScale, Steps
from matchbook.control.environments.suite import split_task

LAST = 2  # dm_env.StepType.LAST


def envpool_name(domain: str, task: str) -> str:
    """`ball_in_cup`, `catch` -> `BallInCupCatch-v1`; capitals stay."""
    words = f"{domain}_{task}".split("_")
    return "".join(word[:1].upper() + word[1:] for word in words) + "-v1"


class EnvPoolSuite:
    """`Environments` of a dm-control task on EnvPool.

    Arguments:
        task: as for `suite.control_suite`.
        num: how many; stepped by as many threads as there are cores, or `num` if fewer.

    Raises:
        ImportError: EnvPool is not installed.
        ValueError: there is no such task.
    """

    def __init__(self, task: str, num: int):
        from dm_control import suite

        domain, name = split_task(task)
        self._name, self.num = envpool_name(domain, name), num
        reference = suite.load(domain, name, task_kwargs={"random": 0})
        self._fields = list(reference.observation_spec())
        spec = reference.action_spec()
        self._scale = ActionScale(spec.minimum, spec.maximum, np.float64)
        self.action_size = self._scale.size
        self.observation_size = self.reset(0).shape[1]

    def reset(self, seed: int) -> Float[np.ndarray, "num observation"]:
        """Start over in a new pool; see `Environments`."""
        self._seed, self._resumed = seed, 0
        return self._start()

    def step(self, actions: Float[np.ndarray, "num dims"]) -> Steps:
        """One action in each; see `Environments`."""
        step = self._pool.step(self._scale(actions))
        following, last = self._flatten(step.observation), np.asarray(step.step_type) == LAST
        observations = following
        if last.any():
            observations = following.copy()
            indices = np.flatnonzero(last).astype(np.int32)
            first = self._pool.reset(indices).observation
            observations[first.env_id] = self._flatten(first)
        rewards = np.asarray(step.reward, np.float64)
        discounts = np.asarray(step.discount, np.float64)
        return Steps(following, rewards, discounts, last, observations)

    def get_state(self) -> dict[str, Any]:
        """The seed, and how often it was resumed."""
        return {"seed": self._seed, "resumed": self._resumed}

    def set_state(
        self, state: dict[str, Any]
    ) -> tuple[Float[np.ndarray, "num observation"], Bool[np.ndarray, " num"]]:
        """New episodes everywhere, with seeds that were not used before; see `Environments`."""
        self._seed, self._resumed = int(state["seed"]), int(state["resumed"]) + 1
        warnings.warn(
            "EnvPool cannot take its simulators back: all environments start a new episode, and "
            "the resumed run will differ from an uninterrupted one; dm-control's own can go back",
            stacklevel=2,
        )
        return self._start(), np.zeros(self.num, bool)

    def _start(self) -> Float[np.ndarray, "num observation"]:
        envpool = importlib.import_module("envpool")
        sequence = np.random.SeedSequence((self._seed, self._resumed))
        seeds = (sequence.generate_state(self.num) >> 1).tolist()  # EnvPool's are int32
        threads = min(self.num, os.cpu_count() or 1)
        self._pool = envpool.make_dm(self._name, num_envs=self.num, num_threads=threads, seed=seeds)
        return self._flatten(self._pool.reset().observation)

    def _flatten(self, observation: Any) -> Float[np.ndarray, "num observation"]:
        parts = [np.asarray(getattr(observation, field)) for field in self._fields]
        flat = [part.reshape(len(part), -1).astype(np.float32) for part in parts]
        return np.concatenate(flat, axis=1)
