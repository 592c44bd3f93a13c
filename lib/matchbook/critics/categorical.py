"""The C51 critic (Bellemare et al. 2017): learned probabilities on atoms fixed in advance.

The target moves off the atoms, so it is projected back onto them (Cramer, or L2, projection), which
clips what lies outside `[v_min, v_max]` and widens everything by up to half a bin.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, variance_scaling
from jaxtyping import Array, Float

from matchbook.critics.interface import Key, Target, check_positive, stop_gradient


class Atoms(NamedTuple):
    """Distributions on shared atoms: `logits` is `[*batch, atoms]`."""

    logits: Array


def l2_project(
    values: Float[Array, "*batch points"],
    probabilities: Float[Array, "*batch points"],
    atoms: Float[Array, " atoms"],
) -> Float[Array, "*batch atoms"]:
    """Share the mass at each value between its two neighbouring atoms, in inverse proportion to
    distance; the mean of what lies inside is kept. `atoms` must be evenly spaced and ascending.
    """
    step = (atoms[-1] - atoms[0]) / (atoms.shape[0] - 1)
    clipped = jnp.clip(values, atoms[0], atoms[-1])[..., None]
    distance = jnp.abs(clipped - atoms.reshape((1,) * values.ndim + (-1,))) / step
    return jnp.sum(probabilities[..., None] * jnp.clip(1 - distance, 0, 1), axis=-2)


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """Settings of the critic; the defaults are DMPO's for the control suite.

    Arguments:
        num_atoms: atoms, evenly spaced, ends included.
        v_min: the lowest return that can be expressed.
        v_max: the highest one.
    """

    num_atoms: int = 51
    v_min: float = -150.0
    v_max: float = 150.0

    def __post_init__(self) -> None:
        if self.num_atoms < 2:
            raise ValueError(f"num_atoms must be 2 or more, got {self.num_atoms}; C51 has 51")
        check_positive(support_width=self.v_max - self.v_min)

    @property
    def atoms(self) -> Float[Array, " atoms"]:
        """Where the probability can be, in units of return."""
        return jnp.linspace(self.v_min, self.v_max, self.num_atoms, dtype=jnp.float32)

    @property
    def num_outputs(self) -> int:
        """One logit for each atom."""
        return self.num_atoms

    @property
    def initializer(self) -> Initializer:
        """Variance 1 / features, the usual default, as in DMPO's code."""
        return variance_scaling(1.0, "fan_in", "truncated_normal")

    def distribution(self, outputs: Float[Array, "*batch outputs"]) -> Atoms:
        """The outputs are the logits."""
        return Atoms(outputs.astype(jnp.float32))

    def mean(self, distribution: Atoms) -> Float[Array, "*batch"]:
        """`sum_i p_i z_i`."""
        return jnp.matmul(jax.nn.softmax(distribution.logits), self.atoms)

    def variance(self, distribution: Atoms) -> Float[Array, "*batch"]:
        """`sum_i p_i (z_i - mean)^2`."""
        mean = self.mean(distribution)[..., None]
        offsets = self.atoms.reshape((1,) * (mean.ndim - 1) + (-1,)) - mean
        return jnp.sum(jax.nn.softmax(distribution.logits) * jnp.square(offsets), axis=-1)

    def sample(self, distribution: Atoms, key: Key, n: int) -> Float[Array, "n *batch"]:
        """Atoms by their probabilities."""
        shape = (n, *distribution.logits.shape[:-1])
        return self.atoms[jax.random.categorical(key, distribution.logits, shape=shape)]

    def cdf(
        self, distribution: Atoms, values: Float[Array, "points *batch"]
    ) -> Float[Array, "points *batch"]:
        """A staircase that steps up at every atom."""
        below = self.atoms.reshape((1,) * values.ndim + (-1,)) <= values[..., None]
        probabilities = jax.nn.softmax(distribution.logits)[None]
        return jnp.sum(probabilities * below.astype(jnp.float32), axis=-1)

    def knots(self, distribution: Atoms) -> Float[Array, "knots *batch"]:
        """The atoms."""
        batch = distribution.logits.shape[:-1]
        return jnp.broadcast_to(
            self.atoms.reshape(-1, *(1,) * len(batch)), (self.num_atoms, *batch)
        )

    def loss(self, distribution: Atoms, target: Target, key: Key) -> Float[Array, "*batch"]:
        """Cross-entropy from the projected target, averaged over actions; `key` is not needed."""
        target = stop_gradient(target)
        atoms = self.atoms.reshape((1,) * target.rewards.ndim + (-1,))
        returns = target.rewards[..., None] + target.discounts[..., None] * atoms
        probabilities = jnp.mean(jax.nn.softmax(target.next.logits), axis=0)
        projected = l2_project(returns, probabilities, self.atoms)
        return -jnp.sum(projected * jax.nn.log_softmax(distribution.logits), axis=-1)
