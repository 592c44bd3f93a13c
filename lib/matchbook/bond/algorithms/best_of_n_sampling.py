"""Best-of-N sampling itself: no training, N generations for every answer.

What all the others try to reach with one generation.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from matchbook.bond.algorithms.scoring import Reward, Rewards, best, check_samples, score
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step
from matchbook.bond.monte_carlo import tie_rate
from matchbook.bond.policies import Policy, Prompts, Weights, Winners


def draw_best(
    policy: Policy,
    reward: Reward,
    n: int,
    weights: Weights,
    prompts: Prompts,
    key: Key[Array, ""],
) -> tuple[Winners, Rewards]:
    """The best of `n` answers to each prompt, ``[prompts, 1, *answer]``, and all n rewards."""
    answers, _ = policy.sample(weights, prompts, key, n)
    (rewards,) = score(reward, prompts, answers)
    return best(answers, rewards), rewards


def best_of_n_sampling_step(policy: Policy, reward: Reward, *, n: int) -> Step:
    """A step that draws the best of `n` of the policy's answers and learns nothing.

    For the same loop and the same metrics as the algorithms that train: ``reward`` is that of the
    winners, ``compared_reward`` that of all.

    Raises:
      ValueError: `n` below 2.
    """
    check_samples("n", n, 2)
    return functools.partial(_step, policy, reward, n)


def _step(
    policy: Policy, reward: Reward, n: int, state: PolicyState, prompts: Prompts
) -> tuple[PolicyState, Metrics]:
    key, sample_key = jax.random.split(state.key)
    _, rewards = draw_best(policy, reward, n, state.weights, prompts, sample_key)
    metrics = {
        "reward": jnp.mean(jnp.max(rewards, axis=1)),
        "compared_reward": jnp.mean(rewards),
        "tie_rate": tie_rate(rewards),
        "generations": jnp.float32(rewards.size),
    }
    return state._replace(key=key, step=state.step + 1), metrics
