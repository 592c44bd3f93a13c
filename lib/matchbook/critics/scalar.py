"""The scalar critic of DDPG and MPO: a value and nothing else.

Read as a return distribution it is a single atom, which makes it comparable with the others.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax.nn.initializers import Initializer, truncated_normal
from jaxtyping import Array, Float

from matchbook.critics.interface import Head, Key, Target, stop_gradient


class Value(NamedTuple):
    """Values of shape `[*batch]`."""

    value: Array


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """The critic without a distribution; it has no settings."""

    @property
    def num_outputs(self) -> int:
        """The value."""
        return 1

    @property
    def initializer(self) -> Initializer:
        """Standard deviation 0.01, as in the code of MPO."""
        return truncated_normal(0.01)

    def distribution(self, outputs: Float[Array, "*batch outputs"]) -> Value:
        """The one output is the value."""
        return Value(outputs.astype(jnp.float32)[..., 0])

    def rescaled_head(self, head: Head, shift: Float[Array, ""], factor: Float[Array, ""]) -> Head:
        """Exactly `shift + factor * outputs`; see `Affine`."""
        return Head(factor * head.kernel, factor * head.bias + shift)

    def mean(self, distribution: Value) -> Float[Array, "*batch"]:
        """The value."""
        return distribution.value

    def variance(self, distribution: Value) -> Float[Array, "*batch"]:
        """None: a value has no spread."""
        return jnp.zeros_like(distribution.value)

    def sample(self, distribution: Value, key: Key, n: int) -> Float[Array, "n *batch"]:
        """The value, n times over."""
        return jnp.broadcast_to(distribution.value[None], (n, *distribution.value.shape))

    def cdf(
        self, distribution: Value, values: Float[Array, "points *batch"]
    ) -> Float[Array, "points *batch"]:
        """One step, at the value."""
        return (distribution.value[None] <= values).astype(jnp.float32)

    def knots(self, distribution: Value) -> Float[Array, "knots *batch"]:
        """The value."""
        return distribution.value[None]

    def loss(self, distribution: Value, target: Target, key: Key) -> Float[Array, "*batch"]:
        """Half the squared error to the mean target over actions; `key` is not needed."""
        target = stop_gradient(target)
        returns = target.rewards + target.discounts * jnp.mean(target.next.value, axis=0)
        return 0.5 * jnp.square(returns - distribution.value)
