"""Judging a policy: its mean action, many episodes at once, one return for each."""

from typing import Any

import numpy as np
from jaxtyping import Float

from matchbook.control.acting import act, on_cpu
from matchbook.control.environments.interface import Environments, Steps, check_finite
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
    totals, running, number = np.zeros(environments.num), np.ones(environments.num, bool), 0
    while running.any():
        number += 1
        steps = mean_step(learner, policy, environments, observations, number)
        totals += np.where(running, steps.rewards, 0)
        running &= ~steps.last
        observations = steps.observations
    return totals


def mean_step(
    learner: Learner,
    policy: Any,
    environments: Environments,
    observations: Float[np.ndarray, "num observation"],
    number: int,
) -> Steps:
    """One step of every environment by the policy's mean action.

    Arguments:
        learner: whose `act` is used, without noise.
        policy: its parameters, on the host.
        environments: to step.
        observations: to act on.
        number: of the step, for what is said where something is not finite.

    Raises:
        NonFiniteStep: for an action, observation or reward.
    """
    noise = np.zeros((environments.num, environments.action_size), np.float32)
    actions = np.asarray(act(learner, policy, observations, noise))
    check_finite(number, action=actions)
    steps = environments.step(actions)
    check_finite(number, reward=steps.rewards, observation=steps.next_observations)
    return steps
