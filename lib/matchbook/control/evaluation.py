"""Judging a policy: its mean action, many episodes at once, one return for each."""

from typing import Any

import numpy as np
from jaxtyping import Float

from matchbook.control.acting import act, on_cpu
from matchbook.control.environments.interface import Environments, check_finite
from matchbook.control.learning import Learner


def episode_returns(
    learner: Learner, policy: Any, environments: Environments, seed: int
) -> Float[np.ndarray, " num"]:
    """The undiscounted sum of rewards of one whole episode in each environment.

    Arguments:
        learner: whose `act` is used, without noise.
        policy: its parameters, such as `state.target.policy`.
        environments: are reset; equal seeds give equal starts.
        seed: of the episodes.

    Raises:
        NonFiniteStep: for an action, observation or reward.
    """
    observations, policy = environments.reset(seed), on_cpu(policy)
    noise = np.zeros((environments.num, environments.action_size), np.float32)
    totals, running, step = np.zeros(environments.num), np.ones(environments.num, bool), 0
    while running.any():
        actions = np.asarray(act(learner, policy, observations, noise))
        step += 1
        check_finite(step, action=actions)
        steps = environments.step(actions)
        check_finite(step, reward=steps.rewards, observation=steps.next_observations)
        totals += np.where(running, steps.rewards, 0)
        running &= ~steps.last
        observations = steps.observations
    return totals
