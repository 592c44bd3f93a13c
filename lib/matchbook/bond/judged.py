"""What a policy's answers are worth to several judges, and how far it has gone for them.

A win is against answers that were given once and for all, such as the reference's: half of a win
where both score alike. The reward that a policy is trained on is one judge; that it still wins with
another one, which it never saw, tells over-optimisation from progress.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from matchbook.bond.policies import Answers, LogProbs, Policy, Prompts, Weights
from matchbook.bond.rewards.learned import wins
from matchbook.bond.scalar_head import ScalarModel

Numbers = dict[str, Float[Array, ""]]
Scores = dict[str, Float[Array, "prompts samples"]]
Picked = Float[Array, "prompts 1"]
Others = Float[Array, "prompts others"]


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
    """A function from a training state to numbers, on new answers to each prompt.

    ``kl``, nats, to the reference, by its samples; and for each judge ``<name>``, the mean reward,
    and ``<name>_win``, the share of wins. The same state gives the same numbers. The opponent's
    answers are scored once, here.
    """
    draw, log_prob = _draw(policy), jax.jit(policy.log_prob)
    theirs = _scores(judges, opponent.prompts, opponent.answers)

    def of_state(state: Any) -> Numbers:
        key = jax.random.key(int(state.step))
        answers, log_probs = draw(state.weights, opponent.prompts, key, num_samples)
        before = log_prob(opponent.reference, opponent.prompts, answers)
        ours = _scores(judges, opponent.prompts, answers)
        return {"kl": jnp.mean(log_probs - before)} | _compared(ours, theirs)

    return of_state


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
    answers, _ = _draw(policy)(opponent.reference, opponent.prompts, key, max(ns))
    ours = _scores(judges, opponent.prompts, answers)
    theirs = _scores(judges, opponent.prompts, opponent.answers)
    winners = [jnp.argmax(ours[chooser][:, :n], axis=1, keepdims=True) for n in ns]
    found = [_compared(_picked(ours, places), theirs) for places in winners]
    return {name: [float(numbers[name]) for numbers in found] for name in found[0]}


def answers_judged(
    judges: Mapping[str, Judge], opponent: Opponent, answers: Answers
) -> dict[str, float]:
    """The numbers of `judging`, but ``kl``, for given answers, such as those that people wrote."""
    both = (_scores(judges, opponent.prompts, of) for of in (answers, opponent.answers))
    return {name: float(value) for name, value in _compared(*both).items()}


def _draw(policy: Policy) -> Callable[..., tuple[Answers, LogProbs]]:
    """Compiled once for each number of samples, whoever draws."""
    return jax.jit(policy.sample, static_argnums=3)


def _scores(judges: Mapping[str, Judge], prompts: Prompts, answers: Answers) -> Scores:
    """What each judge gives each answer; judges of one model share its program."""
    return {
        name: jax.jit(judge.model)(judge.weights, prompts, answers)
        for name, judge in judges.items()
    }


def _picked(scores: Scores, places: Int[Array, "prompts 1"]) -> dict[str, Picked]:
    """The scores of one answer to each prompt."""
    return {name: jnp.take_along_axis(of, places, axis=1) for name, of in scores.items()}


@jax.jit
def _compared(ours: Scores, theirs: dict[str, Others]) -> Numbers:
    """Mean scores and shares of wins."""
    means = {name: jnp.mean(scores) for name, scores in ours.items()}
    return means | {f"{name}_win": wins(scores, theirs[name]) for name, scores in ours.items()}
