"""The mixture-of-Gaussians critic (Shahriari et al. 2022): no support, no bins.

Its loss is the cross-entropy from the Bellman target to the mixture, estimated in three ways.
`sampled`, the paper's, draws returns. Unusual: `stratified`, the default, draws one from each of
`num_nodes` equally likely slices of every component of the target, in mirrored pairs, evenly
spread over the actions: no bias, and less noise from a third of the points. `quadrature` puts
Gauss-Hermite nodes there: no noise, and a bias where the model has narrow components.
`estimators` has the numbers behind the choice.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer, variance_scaling
from jaxtyping import Array, Float

from matchbook.critics.cross_entropy import cross_entropy, log_heights
from matchbook.critics.interface import Head, Key, Target, check_positive, stop_gradient

KNOTS = np.linspace(-6.0, 6.0, 97, dtype=np.float32)  # in standard deviations: 2e-9 lies outside


class Mixture(NamedTuple):
    """Gaussian mixtures: three leaves of shape `[*batch, components]`."""

    logits: Array
    means: Array
    scales: Array


@dataclass(frozen=True, kw_only=True)
class MixtureOfGaussians:
    """Settings of the critic; defaults are those of the authors' code but for the estimator.

    Arguments:
        components: Gaussians in the mixture.
        init_scale: standard deviation of each component where the scale output is 0, in units of
            return.
        min_scale: added to every scale.
        estimator: "stratified", "sampled" (the authors') or "quadrature".
        widths: what makes a scale of the scale output `x`: "softplus", the authors', is
            `init_scale * softplus(x) / softplus(0) + min_scale`; "exp" is `init_scale * exp(x) +
            min_scale`, whose unit can be changed, and which Adam moves by the same share at any
            width.
        widest: times `init_scale`: no component gets wider ("exp"). One without weight drifts as
            Adam's noise drives it, and an exponential would carry it out of float32.
        num_samples: returns drawn for every next action ("sampled").
        num_nodes: returns on each component of the target ("stratified", where it is even, and
            "quadrature").
    """

    components: int = 5
    init_scale: float = 1e-3
    min_scale: float = 1e-4
    estimator: Literal["stratified", "sampled", "quadrature"] = "stratified"
    widths: Literal["softplus", "exp"] = "softplus"
    widest: int | float = 1e4
    num_samples: int = 128
    num_nodes: int = 8

    def __post_init__(self) -> None:
        check_positive(
            components=self.components,
            init_scale=self.init_scale,
            min_scale=self.min_scale,
            widest=self.widest,
            num_samples=self.num_samples,
            num_nodes=self.num_nodes,
        )
        _check_choice("estimator", self.estimator, ("stratified", "sampled", "quadrature"))
        _check_choice("widths", self.widths, ("softplus", "exp"))
        if self.estimator == "stratified" and self.num_nodes % 2:
            raise ValueError(f"num_nodes must be even for stratified pairs, got {self.num_nodes}")

    @property
    def num_outputs(self) -> int:
        """Logits, means and scales of every component."""
        return 3 * self.components

    @property
    def initializer(self) -> Initializer:
        """Variance 1e-5 / features: weights, means and scales start equal but for a trace."""
        return variance_scaling(1e-5, "fan_in", "truncated_normal")

    def distribution(self, outputs: Float[Array, "*batch outputs"]) -> Mixture:
        """Three slices of the outputs: logits, means, and what `widths` makes scales of."""
        logits, means, raw = jnp.split(outputs.astype(jnp.float32), 3, axis=-1)
        if self.widths == "exp":
            # Cut off in value and not in gradient, or it could never become narrow again.
            relative = jnp.exp(
                raw - jax.lax.stop_gradient(jax.nn.relu(raw - math.log(self.widest)))
            )
        else:
            relative = jax.nn.softplus(raw) / math.log(2)
        return Mixture(logits, means, self.init_scale * relative + self.min_scale)

    def rescaled_head(self, head: Head, shift: Float[Array, ""], factor: Float[Array, ""]) -> Head:
        """Weights and means exactly, widths but for `min_scale` and `widest`; see `Affine`.

        Raises:
            ValueError: the widths are not "exp": no linear layer stretches a softplus.
        """
        if self.widths != "exp":
            raise ValueError(
                f"widths must be 'exp' to change the unit of returns, got {self.widths!r}"
            )
        one, none = jnp.ones(self.components), jnp.zeros(self.components)
        factors = jnp.concatenate([one, factor * one, one])
        shifts = jnp.concatenate([none, shift + none, jnp.log(factor) + none])
        return Head(head.kernel * factors[None], head.bias * factors + shifts)

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
        # Components lead, so that the innermost axis is long: a third faster on a CPU.
        logits, means, scales = (jnp.moveaxis(leaf, -1, 0)[:, None] for leaf in distribution)
        scaled = (values[None] - means) / scales
        return jax.nn.logsumexp(log_heights(logits, scales) - 0.5 * jnp.square(scaled), axis=0)

    def loss(self, distribution: Mixture, target: Target, key: Key) -> Float[Array, "*batch"]:
        """`-E log p(r + discount * z)` over the target's actions and their returns `z`."""
        returns, weights = self.target_points(stop_gradient(target), key)
        return cross_entropy(
            *(jnp.moveaxis(leaf, -1, 0) for leaf in distribution), returns, weights
        )

    def target_points(
        self, target: Target, key: Key
    ) -> tuple[Float[Array, "points *batch"], Float[Array, "points *batch"]]:
        """The scalar targets of every row and their weights, which sum to 1 over `points`.

        20 actions with 128 samples each make the paper's 2560 points; the others make
        `actions * components * num_nodes`.
        """
        if self.estimator == "sampled":
            points = self.sample(target.next, key, self.num_samples)
            weights = jnp.ones_like(points)
        else:
            logits, means, scales = (jnp.moveaxis(leaf, -1, 0)[None] for leaf in target.next)
            nodes, shares = self._nodes(key, means.shape[1:])
            points = means + nodes * scales
            weights = shares * jax.nn.softmax(logits, axis=1)
        batch = target.rewards.shape
        points, weights = points.reshape(-1, *batch), weights.reshape(-1, *batch)
        returns = target.rewards[None] + target.discounts[None] * points
        return returns, weights / jnp.sum(weights, axis=0, keepdims=True)

    def _nodes(self, key: Key, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Places on a standard normal, and their shares, `[num_nodes, *shape or ones]`."""
        column = -1, *(1,) * len(shape)
        if self.estimator == "quadrature":
            nodes, shares = np.polynomial.hermite_e.hermegauss(self.num_nodes)
            pair = jnp.asarray(nodes, jnp.float32), jnp.asarray(shares, jnp.float32)
            return pair[0].reshape(column), pair[1].reshape(column)
        half = self.num_nodes // 2
        slices = jnp.arange(half, dtype=jnp.float32).reshape(column)
        components, actions, *batch = shape
        start = jax.random.uniform(key, (half, components, 1, *batch), jnp.float32)
        apart = jnp.arange(actions, dtype=jnp.float32).reshape(-1, *(1,) * len(batch)) / actions
        within = jnp.maximum((start + apart[None, None]) % 1, 1e-6)
        # The normal quantile, in the form that costs a twentieth of `ndtri`.
        below = math.sqrt(2) * jax.lax.erf_inv(2 / self.num_nodes * (slices + within) - 1)
        # Behind a barrier: fused into a concatenation, it is computed twice, number by number.
        below = jax.lax.optimization_barrier(below)
        return jnp.concatenate([below, -below]), jnp.ones((self.num_nodes, *column[1:]))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}; choose one")
