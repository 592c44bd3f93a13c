"""What every critic shares: a linear head on features, and the Bellman target it is matched to.

The setting of Shahriari et al. 2022 (arXiv 2204.10256) and of their code in Acme. Unusual: a critic
is a frozen set of settings with pure methods, so that one head serves a deep network and a table.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, PRNGKeyArray

Key = PRNGKeyArray


class Target(NamedTuple):
    """The distributional Bellman target: the law of `rewards + discounts * Z` with `Z ~ next`.

    Arguments:
        rewards: `Float[Array, "*batch"]`, the (n-step) reward, in the task's own unit.
        discounts: `Float[Array, "*batch"]`, what multiplies the next return; 0 where the episode
            ended.
        next: the critic's distribution at the next state, every leaf `[actions, *batch, ...]`.
            The target averages over `actions`: a mixture of laws, not a mean of values.
    """

    rewards: Array
    discounts: Array
    next: Any


class Head(NamedTuple):
    """A linear layer: `kernel` is `[features, outputs]`, `bias` is `[outputs]`."""

    kernel: Array
    bias: Array


@runtime_checkable  # so that jaxtyping can check it in tests
class Critic[D](Protocol):
    """One interface for `MixtureOfGaussians`, `Categorical`, `Quantile` and `Scalar`.

    `D` is the critic's distribution, a pytree whose leaves start with `*batch`.
    """

    @property
    def num_outputs(self) -> int:
        """How many numbers of the last layer describe one return distribution."""
        ...

    @property
    def initializer(self) -> Initializer:
        """How the last layer's kernel starts; biases start at zero."""
        ...

    def distribution(self, outputs: Float[Array, "*batch outputs"]) -> D:
        """The return distribution that the last layer's outputs describe."""
        ...

    def mean(self, distribution: D) -> Float[Array, "*batch"]:
        """The value: the expectation of the return."""
        ...

    def variance(self, distribution: D) -> Float[Array, "*batch"]:
        """Of the return, in squared units of return."""
        ...

    def sample(self, distribution: D, key: Key, n: int) -> Float[Array, "n *batch"]:
        """Independent returns."""
        ...

    def cdf(
        self, distribution: D, values: Float[Array, "points *batch"]
    ) -> Float[Array, "points *batch"]:
        """The probability of a return not above each value."""
        ...

    def knots(self, distribution: D) -> Float[Array, "knots *batch"]:
        """Points between which the cdf is smooth or constant, in no order; its jumps are there."""
        ...

    def loss(self, distribution: D, target: Target, key: Key) -> Float[Array, "*batch"]:
        """The critic's own loss, for each row; no gradient reaches the target."""
        ...


@runtime_checkable
class Affine(Protocol):
    """A critic whose last layer can move and stretch every return distribution at once."""

    def rescaled_head(self, head: Head, shift: Float[Array, ""], factor: Float[Array, ""]) -> Head:
        """The head that says `shift + factor * Z` wherever `head` says `Z`; `factor` above 0."""
        ...


def init_head(critic: Critic, key: Key, num_features: int) -> Head:
    """A fresh last layer, near-zero as each critic's paper or code has it."""
    kernel = critic.initializer(key, (num_features, critic.num_outputs), jnp.float32)
    return Head(kernel, jnp.zeros(critic.num_outputs, jnp.float32))


def apply_head[D](critic: Critic[D], head: Head, features: Float[Array, "*batch features"]) -> D:
    """The return distributions at some features, computed in float32."""
    outputs = jnp.matmul(features.astype(jnp.float32), head.kernel)
    return critic.distribution(outputs + jnp.broadcast_to(head.bias, outputs.shape))


def stop_gradient(target: Target) -> Target:
    """The target as a constant: bootstrapping moves the prediction only."""
    return jax.tree.map(jax.lax.stop_gradient, target)


def check_positive(**settings: int | float) -> None:
    """Refuse settings that must be above zero.

    Raises:
        ValueError: naming the setting, the value and what to do.
    """
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}; choose a positive number")
