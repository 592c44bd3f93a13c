"""The mixture-of-Gaussians critic (Shahriari et al. 2022): no support, no bins.

Its loss is the cross-entropy from the Bellman target to the mixture, estimated in two ways:
`sampled`, the paper's, draws returns; `quadrature` puts Gauss-Hermite nodes on every component of
the target instead, and has no sampling noise given the reward and the next state.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer, variance_scaling
from jaxtyping import Array, Float

from matchbook.critics.interface import Key, Target, check_positive, stop_gradient

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
KNOTS = np.linspace(-6.0, 6.0, 97, dtype=np.float32)  # in standard deviations: 2e-9 lies outside


class Mixture(NamedTuple):
    """Gaussian mixtures: three leaves of shape `[*batch, components]`."""

    logits: Array
    means: Array
    scales: Array


@dataclass(frozen=True, kw_only=True)
class MixtureOfGaussians:
    """Settings of the critic; defaults are those of the authors' code.

    Arguments:
        components: Gaussians in the mixture.
        init_scale: standard deviation of each component where the scale output is 0, in units of
            return.
        min_scale: added to every scale.
        estimator: "sampled" or "quadrature".
        num_samples: returns drawn for every next action ("sampled").
        num_nodes: nodes on each component of the target ("quadrature").
    """

    components: int = 5
    init_scale: float = 1e-3
    min_scale: float = 1e-4
    estimator: Literal["sampled", "quadrature"] = "sampled"
    num_samples: int = 128
    num_nodes: int = 8

    def __post_init__(self) -> None:
        check_positive(
            components=self.components,
            init_scale=self.init_scale,
            min_scale=self.min_scale,
            num_samples=self.num_samples,
            num_nodes=self.num_nodes,
        )
        if self.estimator not in ("sampled", "quadrature"):
            raise ValueError(
                f"estimator must be 'sampled' or 'quadrature', got {self.estimator!r}; choose one"
            )

    @property
    def num_outputs(self) -> int:
        """Logits, means and scales of every component."""
        return 3 * self.components

    @property
    def initializer(self) -> Initializer:
        """Variance 1e-5 / features: weights, means and scales start equal but for a trace."""
        return variance_scaling(1e-5, "fan_in", "truncated_normal")

    def distribution(self, outputs: Float[Array, "*batch outputs"]) -> Mixture:
        """Three slices of the outputs; `scale = init_scale * softplus(x) / softplus(0) + min`."""
        logits, means, raw = jnp.split(outputs.astype(jnp.float32), 3, axis=-1)
        scales = self.init_scale / math.log(2) * jax.nn.softplus(raw) + self.min_scale
        return Mixture(logits, means, scales)

    def mean(self, distribution: Mixture) -> Float[Array, "*batch"]:
        """`sum_k w_k mu_k`: all that a risk-neutral policy reads."""
        return jnp.sum(jax.nn.softmax(distribution.logits) * distribution.means, axis=-1)

    def variance(self, distribution: Mixture) -> Float[Array, "*batch"]:
        """Within components and between them."""
        weights = jax.nn.softmax(distribution.logits)
        offsets = distribution.means - self.mean(distribution)[..., None]
        return jnp.sum(weights * (jnp.square(distribution.scales) + jnp.square(offsets)), axis=-1)

    def sample(self, distribution: Mixture, key: Key, n: int) -> Float[Array, "n *batch"]:
        """A component by its weight, then a normal draw from it."""
        shape = (n, *distribution.logits.shape[:-1])
        component_key, normal_key = jax.random.split(key)
        # One uniform number a draw, where Gumbel noise would need one for each component.
        level = jax.random.uniform(component_key, shape, jnp.float32)
        reached = jnp.cumsum(jax.nn.softmax(distribution.logits), axis=-1)[..., :-1]
        chosen = jnp.sum((level[..., None] >= reached[None]).astype(jnp.int32), axis=-1)
        pick = jax.nn.one_hot(chosen, distribution.logits.shape[-1], dtype=jnp.float32)
        means = jnp.sum(pick * distribution.means[None], axis=-1)
        scales = jnp.sum(pick * distribution.scales[None], axis=-1)
        return means + scales * jax.random.normal(normal_key, shape, jnp.float32)

    def cdf(
        self, distribution: Mixture, values: Float[Array, "points *batch"]
    ) -> Float[Array, "points *batch"]:
        """Weighted normal cdfs."""
        scaled = (values[..., None] - distribution.means[None]) / distribution.scales[None]
        weights = jax.nn.softmax(distribution.logits)[None]
        return jnp.sum(weights * jax.scipy.stats.norm.cdf(scaled), axis=-1)

    def knots(self, distribution: Mixture) -> Float[Array, "knots *batch"]:
        """Six standard deviations to each side of every component."""
        offsets = jnp.asarray(KNOTS).reshape(-1, *(1,) * distribution.means.ndim)
        points = distribution.means[None] + distribution.scales[None] * offsets
        return jnp.moveaxis(points, -1, 0).reshape(-1, *distribution.means.shape[:-1])

    def log_density(
        self, distribution: Mixture, values: Float[Array, "points *batch"]
    ) -> Float[Array, "points *batch"]:
        """`log sum_k w_k N(value; mu_k, s_k)`, per unit of return, in nats."""
        scales = distribution.scales[None]
        scaled = (values[..., None] - distribution.means[None]) / scales
        log_weights = jax.nn.log_softmax(distribution.logits)[None]
        return jax.nn.logsumexp(
            log_weights - jnp.log(scales) - LOG_SQRT_2PI - 0.5 * jnp.square(scaled), axis=-1
        )

    def loss(self, distribution: Mixture, target: Target, key: Key) -> Float[Array, "*batch"]:
        """`-E log p(r + discount * z)` over the target's actions and their returns `z`."""
        returns, weights = self.target_points(stop_gradient(target), key)
        return -jnp.sum(weights * self.log_density(distribution, returns), axis=0)

    def target_points(
        self, target: Target, key: Key
    ) -> tuple[Float[Array, "points *batch"], Float[Array, "points *batch"]]:
        """The scalar targets of every row and their weights, which sum to 1 over `points`.

        20 actions with 128 samples each make the paper's 2560 points; quadrature makes
        `actions * components * num_nodes`, whatever the key.
        """
        if self.estimator == "sampled":
            points = self.sample(target.next, key, self.num_samples)
            weights = jnp.ones_like(points)
        else:
            nodes, node_weights = np.polynomial.hermite_e.hermegauss(self.num_nodes)
            shape = (-1, *(1,) * target.next.means.ndim)
            spread = jnp.asarray(nodes, jnp.float32).reshape(shape) * target.next.scales[None]
            points = jnp.moveaxis(target.next.means[None] + spread, -1, 1)
            weights = jnp.asarray(node_weights, jnp.float32).reshape(shape)
            weights = jnp.moveaxis(weights * jax.nn.softmax(target.next.logits)[None], -1, 1)
        batch = target.rewards.shape
        points, weights = points.reshape(-1, *batch), weights.reshape(-1, *batch)
        returns = target.rewards[None] + target.discounts[None] * points
        return returns, weights / jnp.sum(weights, axis=0, keepdims=True)
