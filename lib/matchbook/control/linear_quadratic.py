"""What an agent has learned of the linear-quadratic problem, held against formulas.

The whole of DMPO (Shahriari et al. 2022) where the best gain, its cost and the value of any linear
policy are known. Unusual: costs are compared on the same starts and noise, so that a difference of
a thousandth is one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from matchbook.control import networks, normalization
from matchbook.control.acting import act
from matchbook.control.closed_forms import LinearQuadratic
from matchbook.control.learning import State

STATES = np.linspace(-1, 1, 21)
Policy = Callable[[Float[np.ndarray, " num"]], Float[np.ndarray, " num"]]


def discounted_cost(
    problem: LinearQuadratic, policy: Policy, *, num: int = 1024, steps: int = 100, seed: int = 0
) -> float:
    """Mean discounted cost of `u = policy(x)` over simulated episodes from N(0, 1) starts.

    Arguments:
        problem: its numbers.
        policy: from states to actions, in the problem's own units.
        num: episodes, which are the same for every policy with the same seed.
        steps: after which an episode is cut off.
        seed: of starts and noise.
    """
    random = np.random.default_rng(seed)
    x, total = random.standard_normal(num), np.zeros(num)
    for step in range(steps):
        u = policy(x)
        total += problem.discount**step * (problem.q * x**2 + problem.r * u**2)
        x = problem.a * x + problem.b * u + problem.noise * random.standard_normal(num)
    return float(total.mean())


def mean_policy(learner: Any, state: State, max_action: float) -> Policy:
    """The learned policy's mean, in the problem's own units."""
    parameters = jax.device_get(state.target.policy)

    def policy(x: Float[np.ndarray, " num"]) -> Float[np.ndarray, " num"]:
        observations = x[:, None].astype(np.float32)
        actions = act(learner, parameters, observations, np.zeros_like(observations))
        return max_action * np.clip(np.asarray(actions, np.float64)[:, 0], -1, 1)

    return policy


def learned(
    learner: Any, state: State, problem: LinearQuadratic, max_action: float
) -> dict[str, float]:
    """What formulas say of the policy.

    Returns:
        `gain`: of the mean action, `-u / x` by least squares over x from -1 to 1.
        `excess`: its discounted cost over the best one's, minus 1; same starts and noise.
        `std`: of the policy at 0, in the problem's own unit.
    """
    policy = mean_policy(learner, state, max_action)
    u = policy(STATES)
    law = learner.policy(state.target.policy, jnp.zeros((1, 1), jnp.float32))
    best = discounted_cost(problem, lambda x: -problem.gain * x)
    return {
        "gain": -float(STATES @ u / (STATES @ STATES)),
        "excess": discounted_cost(problem, policy) / best - 1,
        "std": max_action * float(law.std[0, 0]),
    }


def value_error(learner: Any, state: State, problem: LinearQuadratic, max_action: float) -> float:
    """Root mean square distance of the critic's values from the exact ones, over the latter's
    root mean square: at the mean actions for x from -1 to 1. Exact is for the linear policy that
    has the learned gain and standard deviation.

    Raises:
        ValueError: with that gain costs are infinite.
    """
    found = learned(learner, state, problem, max_action)
    u = mean_policy(learner, state, max_action)(STATES)
    exact = problem.policy_action_value(found["gain"], found["std"], STATES, u)
    gaps = values(learner, state, STATES, u / max_action) - exact
    return float(np.sqrt(np.mean(gaps**2) / np.mean(np.square(exact))))


def values(
    learner: Any, state: State, x: Float[np.ndarray, " num"], actions: Float[np.ndarray, " num"]
) -> Float[np.ndarray, " num"]:
    """The target critic's values of actions in [-1, 1], in the task's own unit."""
    critic = state.target.critic
    columns = (jnp.asarray(column[:, None], jnp.float32) for column in (x, actions))
    means = learner.critic.mean(networks.returns(learner.critic, critic, *columns))
    return np.asarray(normalization.in_units_of_return(means, critic.unit), np.float64)
