"""Losses and duals of maximum a posteriori policy optimisation, as MoG-MPO and DMPO use them.

Abdolmaleki et al. 2018, and the code of Shahriari et al. 2022 in Acme. Unusual: mean and standard
deviation of the policy have a trust region each, per dimension of the action; and actions outside
[-1, 1] are a second objective with a temperature of its own.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MIN_RAW_DUAL = -18.0
DUAL_OFFSET = 1e-8
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Gaussian(NamedTuple):
    """A diagonal Gaussian policy at some states: `mean` and `std` are `[batch, dims]`."""

    mean: Array
    std: Array


@dataclass(frozen=True, kw_only=True)
class TrustRegion:
    """How far one update may go, in nats; defaults are those of the authors' release.

    Arguments:
        epsilon: KL from the policy to the improved, non-parametric one.
        epsilon_penalty: the same for the one that keeps actions inside [-1, 1].
        epsilon_mean: KL that the mean may cause, for each dimension.
        epsilon_std: KL that the standard deviation may cause, for each dimension.
    """

    epsilon: float = 0.1
    epsilon_penalty: float = 1e-3
    epsilon_mean: float = 3e-3
    epsilon_std: float = 1e-6


class Duals(NamedTuple):
    """Lagrange multipliers before `dual`: two scalars and two of shape `[dims]`."""

    temperature: Array
    penalty_temperature: Array
    mean: Array
    std: Array


def init_duals(dims: int) -> Duals:
    """Both temperatures and the mean's multiplier at 10, the standard deviation's at 1000."""
    return Duals(jnp.full((), 10.0), jnp.full((), 10.0), jnp.full(dims, 10.0), jnp.full(dims, 1e3))


def project(duals: Duals) -> Duals:
    """After each dual step: keep the raw values where softplus still has a gradient."""
    return jax.tree.map(lambda raw: jnp.maximum(raw, MIN_RAW_DUAL), duals)


def dual(raw: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """A multiplier from its raw value: `softplus(raw) + 1e-8`."""
    return jax.nn.softplus(raw) + DUAL_OFFSET


def improvement_weights(
    q_values: Float[Array, "actions batch"], temperature: Float[Array, ""]
) -> Float[Array, "actions batch"]:
    """E-step: `softmax(Q / temperature)` over the sampled actions, as constants."""
    return jax.lax.stop_gradient(jax.nn.softmax(q_values / temperature, axis=0))


def temperature_loss(
    q_values: Float[Array, "actions batch"], temperature: Float[Array, ""], epsilon: float
) -> Float[Array, ""]:
    """The E-step's dual: `eta (epsilon + mean_batch log mean_actions exp(Q / eta))`.

    At its minimum the improved policy is `epsilon` away from the one that was sampled.
    """
    scaled = jax.lax.stop_gradient(q_values) / temperature
    log_means = jax.nn.logsumexp(scaled, axis=0) - math.log(q_values.shape[0])
    return temperature * (epsilon + jnp.mean(log_means))


def improvement_kl(weights: Float[Array, "actions batch"]) -> Float[Array, ""]:
    """KL from the sampled policy to the improved one, estimated on the samples, in nats."""
    return jnp.mean(jnp.sum(weights * jnp.log(weights.shape[0] * weights + 1e-8), axis=0))


def action_penalty(actions: Float[Array, "actions batch dims"]) -> Float[Array, "actions batch"]:
    """Minus the Euclidean distance to the box [-1, 1]^dims; linear, not quadratic."""
    return -jnp.linalg.norm(actions - jnp.clip(actions, -1, 1), axis=-1)


def decoupled_kl(
    target: Gaussian, online: Gaussian
) -> tuple[Float[Array, "batch dims"], Float[Array, "batch dims"]]:
    """KL(target || online) where only the mean differs, and where only the std does, in nats."""
    of_mean = 0.5 * jnp.square((target.mean - online.mean) / target.std)
    ratio = target.std / online.std
    return of_mean, 0.5 * jnp.square(ratio) - jnp.log(ratio) - 0.5


def policy_loss(
    actions: Float[Array, "actions batch dims"],
    weights: Float[Array, "actions batch"],
    target: Gaussian,
    online: Gaussian,
) -> Float[Array, ""]:
    """M-step: weighted negative log-likelihood, once to move the mean and once the std."""
    moved_mean = _log_prob(actions, online.mean, target.std)
    moved_std = _log_prob(actions, target.mean, online.std)
    return -jnp.mean(jnp.sum(weights * (moved_mean + moved_std), axis=0))


def loss(
    region: TrustRegion,
    duals: Duals,
    q_values: Float[Array, "actions batch"],
    actions: Float[Array, "actions batch dims"],
    target: Gaussian,
    online: Gaussian,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Policy and duals together: each part's gradient reaches its own parameters only.

    Arguments:
        region: the trust region.
        duals: raw multipliers.
        q_values: the target critic's values of the sampled actions.
        actions: drawn from `target`.
        target: the policy that acts, held fixed.
        online: the policy that learns.

    Returns:
        The loss, and what to watch: both improvement KLs and both policy KLs in units of what
        they may be, and the temperature.
    """
    target = Gaussian(*(jax.lax.stop_gradient(leaf) for leaf in target))
    temperature, penalty_temperature = dual(duals.temperature), dual(duals.penalty_temperature)
    penalties = action_penalty(actions)
    weights = improvement_weights(q_values, temperature)
    penalty_weights = improvement_weights(penalties, penalty_temperature)
    kl_mean, kl_std = (jnp.mean(kl, axis=0) for kl in decoupled_kl(target, online))
    total = (
        policy_loss(actions, weights + penalty_weights, target, online)
        + _lagrangian(dual(duals.mean), kl_mean, region.epsilon_mean)
        + _lagrangian(dual(duals.std), kl_std, region.epsilon_std)
        + temperature_loss(q_values, temperature, region.epsilon)
        + temperature_loss(penalties, penalty_temperature, region.epsilon_penalty)
    )
    return total, {
        "improvement_kl": improvement_kl(weights) / region.epsilon,
        "penalty_kl": improvement_kl(penalty_weights) / region.epsilon_penalty,
        "mean_kl": jnp.mean(kl_mean) / region.epsilon_mean,
        "std_kl": jnp.mean(kl_std) / region.epsilon_std,
        "temperature": temperature,
    }


def _log_prob(
    actions: Float[Array, "actions batch dims"],
    mean: Float[Array, "batch dims"],
    std: Float[Array, "batch dims"],
) -> Float[Array, "actions batch"]:
    scaled = (actions - mean[None]) / std[None]
    return jnp.sum(-0.5 * jnp.square(scaled) - jnp.log(std)[None] - LOG_SQRT_2PI, axis=-1)


def _lagrangian(
    multiplier: Float[Array, " dims"], kl: Float[Array, " dims"], epsilon: float
) -> Float[Array, ""]:
    """The policy pays for `kl`; the multiplier grows while `kl` is above `epsilon`."""
    fixed_multiplier, fixed_kl = jax.lax.stop_gradient(multiplier), jax.lax.stop_gradient(kl)
    return jnp.sum(fixed_multiplier * kl) + jnp.sum(multiplier * (epsilon - fixed_kl))
