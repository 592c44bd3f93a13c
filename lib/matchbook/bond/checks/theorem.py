"""Theorem 1, the bounds on its collision sum (Eq. 5) and its composition (Eq. 16)."""

import jax.numpy as jnp
import numpy as np

from matchbook.bond import best_of_n, brute_force
from matchbook.bond.checks.checked import (
    DEMO_PROBS,
    DEMO_REWARDS,
    MANY,
    Checked,
    largest,
    random_spaces,
)
from matchbook.divergences import forward_kl

DRAWN = 60  # spaces in the curves
TIES = ("first", "last", "random")


def worked_example() -> Checked:
    """Three answers with probabilities (.5, .3, .2), best of two, by the library."""
    reference = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    best = best_of_n.log_pmf(reference, jnp.arange(3.0), 2)
    numbers = {f"golden.p{i}": float(p) for i, p in enumerate(np.exp(best))}
    numbers["golden.kl"] = float(forward_kl(best, reference))
    return Checked(numbers, {})


def theorem_1(seed: int, cases: int) -> Checked:
    """The theorem against brute force on random spaces of five answers, N = 2, 3, 4, all tie rules.

    Curves ``theorem.error.N`` hold the largest error in each of the first spaces; ``demo.*`` is
    the space that is drawn.
    """
    probs, rewards = random_spaces(seed, cases, answers=5)
    numbers, curves, totals, errors = {}, {}, [], []
    for n in (2, 3, 4):
        formula = np.exp(best_of_n.log_pmf(jnp.log(probs), jnp.asarray(rewards), n))
        truth = [brute_force.pmf(probs, rewards, n, ties) for ties in TIES]
        error = np.abs(formula - np.stack(truth)).max(axis=(0, 2))
        errors.append(error)
        curves[f"theorem.error.N{n}"] = np.arange(cases)[:DRAWN], error[:DRAWN]
        totals.append(formula.sum(axis=-1) - 1)
    numbers["theorem.error"] = largest(errors)
    numbers["theorem.total_error"] = largest(totals)
    numbers["theorem.tied_spaces"] = float(
        sum(np.unique(row).size < row.size for row in rewards) / cases
    )
    place = np.arange(DEMO_PROBS.size)
    curves["demo.brute_force.N4"] = place, brute_force.pmf(DEMO_PROBS, DEMO_REWARDS, 4)
    for n in (1, 2, 4, 16):
        log_pmf = best_of_n.log_pmf(jnp.log(DEMO_PROBS), jnp.asarray(DEMO_REWARDS), n)
        curves[f"demo.N{n}"] = place, np.exp(log_pmf)
    curves["demo.rewards"] = place, DEMO_REWARDS
    return Checked(numbers, curves)


def collision(seed: int, cases: int, n: int = 8) -> Checked:
    """Factor (B) on random spaces, between 1 and N; and on K equally likely answers, tending to N.

    Curves ``collision.K`` hold (B) against p_<= for N = `n`.
    """
    probs, rewards = random_spaces(seed, cases)
    log_probs, ranks = jnp.log(probs), jnp.asarray(rewards)
    worst = rewards == rewards.min(axis=-1, keepdims=True)
    lowest, highest, at_worst = [], [], []
    for samples in (2, 8, 64, 1000):
        factor = np.exp(best_of_n.log_collision(log_probs, ranks, samples))
        lowest.append(factor.min())
        highest.append(factor.max() / samples)
        at_worst.append(largest(factor[worst] - 1))
    rare = jnp.array([0.0, 0.0, -700.0])  # the last answer is practically never drawn twice
    log_limit = float(best_of_n.log_collision(rare, jnp.arange(3.0), n)[2])
    numbers = {
        "collision.lowest": min(lowest),
        "collision.highest_over_n": max(highest),
        "collision.worst_answer_error": max(at_worst),
        f"collision.limit_n{n}": float(np.exp(log_limit)),
        f"collision.term_n{n}": log_limit / (n - 1),
    }
    curves = {}
    place = jnp.arange(float(MANY))
    for answers in (4, 16, 64, MANY):
        even = jnp.where(place < answers, 0.0, -jnp.inf)
        shown = np.unique(np.geomspace(1, answers, 48).astype(int)) - 1
        factor = np.exp(best_of_n.log_collision(even, place, n))
        curves[f"collision.K{answers}"] = (shown + 1) / answers, factor[shown]
    return Checked(numbers, curves)


def composition(seed: int, cases: int) -> Checked:
    """Best-of-n of Best-of-m against Best-of-nm, on random spaces with ties."""
    probs, rewards = random_spaces(seed, cases)
    log_probs, ranks = jnp.log(probs), jnp.asarray(rewards)
    errors = []
    for rounds in ((2, 2), (2, 4), (4, 4), (3, 5)):
        composed = np.exp(best_of_n.compose(log_probs, ranks, rounds))
        errors.append(composed - np.exp(best_of_n.log_pmf(log_probs, ranks, rounds[0] * rounds[1])))
    return Checked({"composition.error": largest(errors)}, {})
