"""Supervised fine-tuning: on given answers, on a source that can be drawn from, on Best-of-N.

The last one is the forward part of BOND alone (Eq. 13), that is `bond_step` at beta = 0.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from matchbook.bond.algorithms.anchors import fixed
from matchbook.bond.algorithms.best_of_n_sampling import draw_best
from matchbook.bond.algorithms.scoring import Reward, check_samples
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step, advance
from matchbook.bond.monte_carlo import tie_rate
from matchbook.bond.policies import Answers, Policy, Prompts, Weights

Source = Callable[[Any, Any, int], Answers]


def sft_step(policy: Policy, optimizer: optax.GradientTransformation) -> Step:
    """A step up the mean log-probability of given answers; a batch is ``(prompts, answers)``."""
    return functools.partial(_given, policy, optimizer)


def imitation_step(
    policy: Policy, optimizer: optax.GradientTransformation, source: Source, num_samples: int = 1
) -> Step:
    """The same on fresh answers of a source, ``source(prompts, key, num_samples) -> answers``.

    How a small language model gets its reference policy.
    """
    return functools.partial(_imitate, policy, optimizer, source, num_samples)


def sft_best_of_n_step(
    policy: Policy, optimizer: optax.GradientTransformation, reward: Reward, *, n: int
) -> Step:
    """The same on the best of `n` answers of the anchor, drawn anew in every step.

    The metrics ``reward`` and ``compared_reward`` are those of the winners and of all `n`.

    Raises:
      ValueError: `n` below 2.
    """
    check_samples("n", n, 2)
    return functools.partial(_best_of_n, policy, optimizer, reward, n)


def _given(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    state: PolicyState,
    batch: tuple[Prompts, Answers],
) -> tuple[PolicyState, Metrics]:
    return advance(state, state.key, optimizer, fixed, _likelihood(policy, *batch, {}))


def _imitate(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    source: Source,
    num_samples: int,
    state: PolicyState,
    prompts: Prompts,
) -> tuple[PolicyState, Metrics]:
    key, source_key = jax.random.split(state.key)
    answers = source(prompts, source_key, num_samples)
    return advance(state, key, optimizer, fixed, _likelihood(policy, prompts, answers, {}))


def _best_of_n(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    n: int,
    state: PolicyState,
    prompts: Prompts,
) -> tuple[PolicyState, Metrics]:
    key, anchor_key = jax.random.split(state.key)
    winners, rewards = draw_best(policy, reward, n, state.anchor, prompts, anchor_key)
    metrics = {
        "reward": jnp.mean(jnp.max(rewards, axis=1)),
        "compared_reward": jnp.mean(rewards),
        "tie_rate": tie_rate(rewards),
        "generations": jnp.float32(rewards.size),
    }
    return advance(state, key, optimizer, fixed, _likelihood(policy, prompts, winners, metrics))


def _likelihood(
    policy: Policy, prompts: Prompts, answers: Answers, metrics: Metrics
) -> Callable[[Weights], tuple[jax.Array, Metrics]]:
    return lambda weights: (-jnp.mean(policy.log_prob(weights, prompts, answers)), metrics)
