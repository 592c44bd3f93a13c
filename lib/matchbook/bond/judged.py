"""What a policy's answers are worth to several judges, and how far it has gone for them.

A win is against answers that were given once and for all, such as the reference's: half of a win
where both score alike. The reward that a policy is trained on is one judge; that it still wins with
another one, which it never saw, tells over-optimisation from progress.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from matchbook.bond.algorithms.scoring import best
from matchbook.bond.policies import Answers, LogProbs, Policy, Prompts, Weights
from matchbook.bond.rewards.learned import wins
from matchbook.bond.scalar_head import ScalarModel

Numbers = dict[str, Float[Array, ""]]


class Judge(NamedTuple):
    """A model of rewards and its weights."""

    model: ScalarModel
    weights: Weights


class Opponent(NamedTuple):
    """What a policy is compared with: the reference's weights, prompts, and answers to beat."""

    reference: Weights
    prompts: Prompts
    answers: Answers


def judging(
    policy: Policy, judges: Mapping[str, Judge], opponent: Opponent, num_samples: int = 1
) -> Callable[[Any], Numbers]:
    """A function from a training state to numbers, on new answers to each prompt; compiled.

    ``kl``, nats, to the reference, by its samples; and for each judge ``<name>``, the mean reward,
    and ``<name>_win``, the share of wins. The same state gives the same numbers.
    """
    models, weights = _unzipped(judges)
    numbers = _numbers(policy, models, num_samples)
    return lambda state: numbers(state.weights, weights, opponent, jax.random.key(int(state.step)))


def best_of_n_judged(
    policy: Policy,
    judges: Mapping[str, Judge],
    opponent: Opponent,
    chooser: str,
    ns: tuple[int, ...],
    key: Key[Array, ""],
) -> dict[str, list[float]]:
    """The numbers of `judging`, but ``kl``, for the best of n of the reference's answers.

    Args:
      policy: draws the answers, with the reference's weights.
      judges: as in `judging`.
      opponent: as in `judging`.
      chooser: the judge whose best answer is taken.
      ns: how many answers there are to choose from; the smaller choose among the first.
      key: of the draws.

    Returns:
      For each number a list, one entry for each n.
    """
    draw = jax.jit(policy.sample, static_argnums=3)
    answers, _ = draw(opponent.reference, opponent.prompts, key, max(ns))
    judge = judges[chooser]
    rewards = jax.jit(judge.model)(judge.weights, opponent.prompts, answers)
    winners = (best(answers[:, :n], rewards[:, :n]) for n in ns)
    found = [answers_judged(judges, opponent, of_n) for of_n in winners]
    return {name: [numbers[name] for numbers in found] for name in found[0]}


def answers_judged(
    judges: Mapping[str, Judge], opponent: Opponent, answers: Answers
) -> dict[str, float]:
    """The numbers of `judging`, but ``kl``, for given answers, such as those that people wrote."""
    models, weights = _unzipped(judges)
    return {k: float(v) for k, v in _judged(models, weights, opponent, answers).items()}


Models = tuple[tuple[str, ScalarModel], ...]


def _unzipped(judges: Mapping[str, Judge]) -> tuple[Models, tuple[Weights, ...]]:
    """Names and models, and the weights: what is static, and what is not."""
    models = tuple((name, judge.model) for name, judge in judges.items())
    return models, tuple(judge.weights for judge in judges.values())


@functools.lru_cache
def _numbers(policy: Policy, models: Models, num_samples: int) -> Callable[..., Numbers]:
    @jax.jit
    def numbers(weights: Weights, judges: Any, opponent: Opponent, key: Key[Array, ""]) -> Numbers:
        answers, log_probs = policy.sample(weights, opponent.prompts, key, num_samples)
        before: LogProbs = policy.log_prob(opponent.reference, opponent.prompts, answers)
        kl = {"kl": jnp.mean(log_probs - before)}
        return kl | _judged(models, judges, opponent, answers)

    return numbers


@functools.partial(jax.jit, static_argnums=0)
def _judged(
    models: Models,
    weights: Any,
    opponent: Opponent,
    answers: Answers,
) -> Numbers:
    found: Numbers = {}
    drawn = answers.shape[1]
    for (name, model), of_model in zip(models, weights, strict=True):
        both = jnp.concatenate([answers, opponent.answers], axis=1)
        scores = model(of_model, opponent.prompts, both)
        found[name] = jnp.mean(scores[:, :drawn])
        found[f"{name}_win"] = wins(scores[:, :drawn], scores[:, drawn:])
    return found
