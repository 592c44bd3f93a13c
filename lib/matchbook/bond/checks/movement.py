"""How far Best-of-N moves away from its reference and how often it wins: bounds and their limit."""

import jax.numpy as jnp
import numpy as np

from matchbook.bond import best_of_n, continuous
from matchbook.bond.checks.checked import MANY, Checked, random_spaces
from matchbook.divergences import forward_kl

NS = (2, 4, 8, 16, 32, 64)
PRINTED = (2, 4, 8, 16)


def movement(seed: int, cases: int, drawn: int = 40) -> Checked:
    """KL(BoN || ref) and win rate on random spaces with ties, and on K equally likely answers.

    Curves ``kl.N`` and ``win.N`` hold the first `drawn` spaces; ``kl.even.K``, ``win.even.K`` run
    over N for a growing number of equally likely answers, which tend to the bounds.
    """
    probs, rewards = random_spaces(seed, cases)
    reference, ranks = jnp.log(probs), jnp.asarray(rewards)
    curves, kl_gaps, win_gaps = {}, [], []
    for n in NS:
        kl, wins = _kl_and_win_rate(reference, ranks, n)
        curves[f"kl.N{n}"] = np.arange(min(drawn, cases)), kl[:drawn]
        curves[f"win.N{n}"] = np.arange(min(drawn, cases)), wins[:drawn]
        kl_gaps.append(best_of_n.kl_bound(n) - kl.max())
        win_gaps.append(best_of_n.win_rate_bound(n) - wins.max())
    numbers = {"kl.smallest_gap": min(kl_gaps), "win.smallest_gap": min(win_gaps)}
    order = jnp.arange(float(MANY))
    for answers in (4, 16, MANY):
        even = jnp.where(order < answers, -jnp.log(answers), -jnp.inf)
        values = np.array([_kl_and_win_rate(even, order, n) for n in NS])
        curves[f"kl.even.K{answers}"] = np.array(NS), values[:, 0]
        curves[f"win.even.K{answers}"] = np.array(NS), values[:, 1]
        for n, (kl, wins) in zip(NS, values):
            if answers == MANY and n in PRINTED:
                numbers[f"kl.limit_gap.N{n}"] = best_of_n.kl_bound(n) - kl
                numbers[f"win.limit_gap.N{n}"] = best_of_n.win_rate_bound(n) - wins
    for n in PRINTED:
        numbers[f"kl.bound.N{n}"] = best_of_n.kl_bound(n)
        numbers[f"win.bound.N{n}"] = best_of_n.win_rate_bound(n)
    return Checked(numbers, curves)


def continuous_values() -> Checked:
    """Four values of Best-of-N of a continuous reference, integrated, and their closed forms."""
    numbers, errors = {}, []
    for n in PRINTED:
        for name, integral in continuous.by_quadrature(n).items():
            numbers[f"continuous.{name}.N{n}"] = integral
            errors.append(integral - getattr(continuous, name)(n))
    numbers["continuous.error"] = float(np.abs(errors).max())
    return Checked(numbers, {})


def _kl_and_win_rate(reference, rewards, n):
    best = best_of_n.log_pmf(reference, rewards, n)
    wins = best_of_n.win_rate(best, reference, rewards)
    return np.asarray(forward_kl(best, reference)), np.asarray(wins)
