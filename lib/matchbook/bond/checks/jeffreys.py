"""Jeffreys divergence (Eq. 11): its weights, and its minimiser where the policy can be anything."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.special import rel_entr

from matchbook import divergences
from matchbook.bond import best_of_n
from matchbook.bond.checks.checked import (
    DEMO_PROBS,
    DEMO_REWARDS,
    Checked,
    largest,
    random_spaces,
)

BETAS = (0.0, 0.5, 1.0)


def jeffreys(seed: int, cases: int, n: int = 8) -> Checked:
    """For three betas: the weights against scipy's relative entropies, and minimisers by BFGS.

    Curves ``jeffreys.beta`` walk through Best-of-m of the drawn space: all are 0 at m = N only.
    """
    demo, ranks = jnp.log(DEMO_PROBS), jnp.asarray(DEMO_REWARDS)
    target = best_of_n.log_pmf(demo, ranks, n)
    errors = [_minimise(target, demo, beta) - np.exp(target) for beta in BETAS]
    p, _ = random_spaces(seed, cases)
    q, _ = random_spaces(seed + 1, cases)
    slips = []
    for beta in BETAS:
        by_scipy = (1 - beta) * rel_entr(q, p).sum(-1) + beta * rel_entr(p, q).sum(-1)
        slips.append(divergences.jeffreys(jnp.log(q), jnp.log(p), beta=beta) - by_scipy)
    numbers = {"jeffreys.minimiser_error": largest(errors), "jeffreys.weight_error": largest(slips)}
    walk = np.geomspace(1, 64, 49)
    path = jnp.stack([best_of_n.log_pmf(demo, ranks, m) for m in walk])
    goal = jnp.broadcast_to(target, path.shape)
    curves = {
        f"jeffreys.beta{beta}": (walk, np.asarray(divergences.jeffreys(goal, path, beta=beta)))
        for beta in BETAS
    }
    return Checked(numbers, curves)


def _minimise(target, start, beta):
    """The probabilities of the tabular softmax policy that BFGS ends at."""

    def loss(logits):
        return divergences.jeffreys(target, jax.nn.log_softmax(logits), beta=beta)

    value_and_slope = jax.jit(jax.value_and_grad(loss))
    found = minimize(
        lambda x: tuple(map(np.asarray, value_and_slope(jnp.asarray(x)))),
        np.asarray(start),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-12, "maxiter": 2000},
    )
    return np.exp(jax.nn.log_softmax(jnp.asarray(found.x)))
