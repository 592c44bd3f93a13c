"""Which way J-BOND's extra KL term points: as the trainer samples it, and by its derivative.

The sampled term is the difference that gamma makes to one and the same step, on the same answers;
the true derivative is automatic differentiation of the exact KL (BOND, Eq. 19), in which no formula
of the paper takes part. A negative gamma is the sign that Algorithm 2 prints.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from matchbook.bond import algorithms
from matchbook.bond.algorithms.gradient_statistics import (
    DESCENT,
    GradientStatistics,
    gradient_statistics,
)
from matchbook.bond.algorithms.state import Metrics, PolicyState
from matchbook.bond.log_linear import Space, Weights
from matchbook.bond.policies import Prompts
from matchbook.divergences import backward_kl

SIGNS = {"pull": 1.0, "push": -1.0}  # right, and as printed


@jax.jit
def true_gradient(space: Space, weights: Weights, anchor: Weights) -> Weights:
    """The derivative of KL(policy || anchor), mean over the prompts, by the policy's weights."""

    def divergence(weights: Weights) -> Array:
        log_pmf = space.log_pmf
        return jnp.mean(
            backward_kl(log_pmf(anchor, space.prompts), log_pmf(weights, space.prompts))
        )

    return jax.grad(divergence)(weights)


@functools.partial(jax.jit, static_argnums=3)
def sampled_term(
    space: Space, gamma: Float[Array, ""], state: PolicyState, batches: int
) -> GradientStatistics:
    """What `gamma` adds to J-BOND's gradient, over many batches of one answer to each prompt.

    `state` is one made with `DESCENT`.
    """
    return gradient_statistics(
        functools.partial(_difference, space, gamma), state, space.prompts, batches
    )


def check(
    space: Space, seed: int, batches: int
) -> tuple[dict[str, float], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Numbers and curves for a random policy and a random anchor of the family.

    Numbers: ``slope.pull`` and ``slope.push``, of the sampled term on the true derivative over all
    weights (1 where it is right); ``z.pull`` and ``z.push``, the largest distance of one weight
    from the nearer diagonal, in standard errors. Curves over the number of the weight: ``true``,
    the sampled ``pull`` and ``push``, and their standard errors ``pull.error``, ``push.error``.
    """
    rng, width = np.random.default_rng(seed), space.features.shape[-1]
    weights, anchor = jnp.asarray(rng.standard_normal((2, width)), jnp.float32)
    state = algorithms.policy_state(weights, DESCENT, seed)._replace(anchor=anchor)
    truth = np.asarray(true_gradient(space, weights, anchor), float)
    places = np.arange(width)
    numbers, curves = {}, {"true": (places, truth)}
    for side, sign in SIGNS.items():
        found = sampled_term(space, jnp.float32(sign), state, batches)
        mean, error = np.asarray(found.mean, float), np.asarray(found.standard_error, float)
        slope = float(mean @ truth / (truth @ truth))
        numbers[f"slope.{side}"] = slope
        numbers[f"z.{side}"] = float(np.max(np.abs(mean - np.sign(slope) * truth) / error))
        curves |= {side: (places, mean), f"{side}.error": (places, error)}
    return numbers, curves


def _difference(
    space: Space, gamma: Float[Array, ""], state: PolicyState, prompts: Prompts
) -> tuple[PolicyState, Metrics]:
    """A step by the difference of two gradients, made from the same samples."""
    (with_it, metrics), (without, _) = (
        algorithms.jbond_step(
            space.policy, DESCENT, space.reward, algorithms.fixed, gamma=strength
        )(state, prompts)
        for strength in (gamma, jnp.float32(0))
    )
    change = with_it.weights - without.weights
    return state._replace(weights=state.weights + change), metrics
