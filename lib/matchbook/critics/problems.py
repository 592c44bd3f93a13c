"""Five small Markov chains whose return distribution is known in closed form.

Ours, not the paper's (Shahriari et al. 2022): M1 to M5 in the ledger of claims. Unusual: a chain is
a map from uniform random numbers to transitions, and `draw` puts any number of chains side by side
in one table of states, so that one small program trains on all of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from matchbook.critics import laws
from matchbook.critics.interface import Key
from matchbook.critics.laws import Law

# Two independent numbers, uniform on (0, 1), for each state and each draw.
Noise = Float[Array, "2 states draws"]


class Transitions(NamedTuple):
    """Draws of one step out of every state; each array is `[states, draws]`.

    `discounts` is 0 where the episode ends there, and then `next_states` does not matter.
    """

    rewards: Array
    discounts: Array
    next_states: Array


@dataclass(frozen=True)
class Problem:
    """A chain without choices, and the exact law of the return from each of its states.

    Arguments:
        name: in one word.
        laws: one for each state; the first state is where an episode starts.
        transitions: what uniform noise does.
    """

    name: str
    laws: tuple[Law, ...]
    transitions: Callable[[Noise], Transitions]


def _loop(rewards: Float[Array, "1 draws"], discount: float | Array) -> Transitions:
    """One state that follows itself."""
    discounts = jnp.broadcast_to(jnp.asarray(discount, jnp.float32), rewards.shape)
    return Transitions(rewards, discounts, jnp.zeros(rewards.shape, jnp.int32))


def gaussian_loop(mean: float = 1.0, std: float = 1.0, discount: float = 0.99) -> Problem:
    """M1: rewards N(mean, std^2) for ever; the return is Gaussian, exact with one component."""
    law = laws.gaussian(mean / (1 - discount), std / math.sqrt(1 - discount**2))
    return Problem("loop", (law,), lambda noise: _loop(mean + std * ndtri(noise[0]), discount))


def fork(mean: float = 1.0, std: float = 0.5, discount: float = 0.9) -> Problem:
    """M2: one step for nothing, then with even odds a Gaussian loop around -mean or +mean."""
    leaf_mean, leaf_std = mean / (1 - discount), std / math.sqrt(1 - discount**2)

    def transitions(noise: Noise) -> Transitions:
        states = jnp.broadcast_to(jnp.arange(3, dtype=jnp.int32)[:, None], noise.shape[1:])
        centres = jnp.where(states == 1, -mean, mean)
        rewards = jnp.where(states == 0, 0.0, centres + std * ndtri(noise[0]))
        sides = jnp.where(noise[1] < 0.5, 1, 2).astype(jnp.int32)
        next_states = jnp.where(states == 0, sides, states)
        return Transitions(rewards, jnp.full_like(rewards, discount), next_states)

    start = laws.two_gaussians((-discount * leaf_mean, discount * leaf_mean), discount * leaf_std)
    leaves = (laws.gaussian(-leaf_mean, leaf_std), laws.gaussian(leaf_mean, leaf_std))
    return Problem("fork", (start, *leaves), transitions)


def skewed(stop: float = 0.1) -> Problem:
    """M3: undiscounted Exp(1) rewards, the episode stopping with this probability after each."""

    def transitions(noise: Noise) -> Transitions:
        goes_on = (noise[1] >= stop).astype(jnp.float32)
        return _loop(-jnp.log1p(-noise[0]), goes_on)

    return Problem("skewed", (laws.exponential(1 / stop),), transitions)


def uniform() -> Problem:
    """M4: fair coins for rewards, discount 1/2; the return's binary digits, even on [0, 2]."""
    return Problem(
        "uniform",
        (laws.uniform(0.0, 2.0),),
        lambda noise: _loop((noise[0] < 0.5).astype(jnp.float32), 0.5),
    )


def jackpot(probability: float = 0.05) -> Problem:
    """M5: one reward of 1 / probability, with this probability, and the end: mean 1."""
    return Problem(
        "jackpot",
        (laws.two_points(0.0, 1 / probability, probability),),
        lambda noise: _loop(jnp.where(noise[0] < probability, 1 / probability, 0.0), 0.0),
    )


@cache
def all_problems() -> tuple[Problem, ...]:
    """The five, in the order M1 to M5; always the same objects, so that nothing compiles twice."""
    return gaussian_loop(), fork(), skewed(), uniform(), jackpot()


def start_states(problems: tuple[Problem, ...]) -> tuple[int, ...]:
    """Where each problem's first state stands in the table that `draw` makes."""
    sizes = [len(problem.laws) for problem in problems]
    return tuple(sum(sizes[:i]) for i in range(len(sizes)))


@partial(jax.jit, static_argnums=(0, 2))
def draw(problems: tuple[Problem, ...], key: Key, draws: int) -> Transitions:
    """Steps out of every state of every problem, in one table of states that never meet."""
    sizes = [len(problem.laws) for problem in problems]
    noise = jax.random.uniform(key, (2, sum(sizes), draws), jnp.float32, minval=1e-7)
    parts = []
    for problem, first, size in zip(problems, start_states(problems), sizes):
        part = problem.transitions(noise[:, first : first + size])
        parts.append(part._replace(next_states=part.next_states + first))
    return Transitions(*(jnp.concatenate(leaves) for leaves in zip(*parts)))


@partial(jax.jit, static_argnums=(0, 2, 3))
def simulate(
    problems: tuple[Problem, ...], key: Key, episodes: int, steps: int
) -> Float[Array, "problems episodes"]:
    """Returns of independent episodes from each first state, cut off after some steps."""
    columns = jnp.arange(episodes)
    shape = (len(problems), episodes)
    first = jnp.broadcast_to(jnp.asarray(start_states(problems), jnp.int32)[:, None], shape)

    def step(carry: Any, key: Key) -> tuple[Any, None]:
        total, weight, states = carry
        rewards, discounts, next_states = draw(problems, key, episodes)
        total = total + weight * rewards[states, columns[None]]
        weight = weight * discounts[states, columns[None]]
        return (total, weight, next_states[states, columns[None]]), None

    start = jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32), first
    (total, _, _), _ = jax.lax.scan(step, start, jax.random.split(key, steps))
    return total
