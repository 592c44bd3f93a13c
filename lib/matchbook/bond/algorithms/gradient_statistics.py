"""Mean and variance of an algorithm's stochastic gradient, over many batches drawn at one state.

For comparing it with the exact one, and estimators with each other. It is taken from the step
itself: with plain descent at rate 1 the gradient is what the update took away.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from matchbook.bond.algorithms.state import PolicyState, Step
from matchbook.bond.policies import Prompts, Weights

DESCENT = optax.sgd(1.0)
"""The optimizer that a step must be made with, to have its gradients measured."""


class GradientStatistics(NamedTuple):
    """Pytrees like the weights, over the batches.

    mean: of the gradient.
    standard_error: of that mean.
    variance: of the gradient of one batch.
    """

    mean: Weights
    standard_error: Weights
    variance: Weights

    @property
    def total_variance(self) -> Float[Array, ""]:
        """The variance summed over all weights: one number to compare estimators by."""
        return jnp.asarray(optax.tree.sum(self.variance))

    def z_scores(self, exact: Weights) -> Weights:
        """How many standard errors the mean is away from an exact gradient."""
        return jax.tree.map(lambda mean, error, truth: (mean - truth) / error, *self[:2], exact)


def gradient_statistics(
    step: Step, state: PolicyState, prompts: Prompts, num_batches: int
) -> GradientStatistics:
    """Run `step` on `num_batches` keys from one state, in one compiled call.

    Args:
      step: made with the optimizer `DESCENT`; `state` likewise.
      num_batches: at least 2. All are held in memory at once, one copy of the weights each.
    """
    keys = jax.random.split(state.key, num_batches)

    @jax.jit
    def statistics(state: PolicyState, prompts: Prompts, keys: Array) -> GradientStatistics:
        def gradient(key: Array) -> Weights:
            new, _ = step(state._replace(key=key), prompts)
            return jax.tree.map(lambda before, after: before - after, state.weights, new.weights)

        gradients = jax.vmap(gradient)(keys)
        variance = jax.tree.map(lambda g: jnp.var(g, axis=0, ddof=1), gradients)
        return GradientStatistics(
            mean=jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients),
            standard_error=jax.tree.map(lambda v: jnp.sqrt(v / num_batches), variance),
            variance=variance,
        )

    return statistics(state, prompts, keys)
