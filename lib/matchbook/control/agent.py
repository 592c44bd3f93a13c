"""A learner, its experience and its evaluation, as the pieces that `lab.fit` takes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from matchbook.control.acting import Experience, Schedule
from matchbook.control.environments.interface import Environments
from matchbook.control.evaluation import episode_returns
from matchbook.control.learning import Learner, State, update


class Agent:
    """`lab.fit(agent.step, agent.init(), agent.experience, num_steps=agent.num_steps(100_000))`.

    One step of the loop is `schedule.updates_per_dispatch` updates.

    Arguments:
        learner: such as `DMPO` or `D4PG`.
        environments: to learn in.
        schedule: how data and updates interleave.
        seed: of networks, environments, noise and sampling.
        judged_in: environments for `evaluate`, one episode in each; None if it is not called.
    """

    def __init__(
        self,
        learner: Learner,
        environments: Environments,
        schedule: Schedule | None = None,
        *,
        seed: int,
        judged_in: Environments | None = None,
    ):
        self.learner, self.schedule, self.seed = learner, schedule or Schedule(), seed
        self.experience = Experience(learner, environments, self.schedule, seed=seed)
        self._judged_in = judged_in

    def init(self) -> State:
        """A fresh state of the learner."""
        return self.learner.init(self.seed)

    @property
    def step(self) -> Callable[..., Any]:
        """`step(state, batches)`; equal learners share one compilation in `lab.fit`."""
        return partial(update, self.learner)

    def num_steps(self, environment_steps: int) -> int:
        """Steps of the loop that this many environment steps pay for."""
        return self.schedule.dispatches(environment_steps)

    def evaluate(self, state: State) -> dict[str, float]:
        """`return` (the mean over episodes, which start alike each time) and its `return_std`
        between episodes, and `environment_steps`, the data used so far.

        Raises:
            ValueError: there is nothing to be judged in.
        """
        if self._judged_in is None:
            raise ValueError("evaluate needs environments: give the agent `judged_in`")
        policy = jax.device_get(state.target.policy)
        returns = episode_returns(self.learner, policy, self._judged_in, self.seed)
        return {
            "return": float(np.mean(returns)),
            "return_std": float(np.std(returns)),
            "environment_steps": float(self.experience.environment_steps),
        }
