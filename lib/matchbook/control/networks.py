"""Policy and critic networks, as in the code of Shahriari et al. 2022: LayerNorm MLPs.

Plain pytrees and pure functions. Unusual: the first layer is split into one part for each input, so
that many actions at one state share the work on the state.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn.initializers import variance_scaling
from jaxtyping import Array, Float

from matchbook.control.mpo import Gaussian
from matchbook.critics import Critic, Head, apply_head, init_head
from matchbook.critics.interface import Key

MIN_STD = 1e-6
LAYER_NORM_EPSILON = 1e-5
TORSO_INIT = variance_scaling(0.333**2, "fan_in", "uniform")
NEAR_ZERO_INIT = variance_scaling(1e-4, "fan_in", "truncated_normal")


class Torso(NamedTuple):
    """Linear layers; after the first come a layer norm with `scale` and `offset`, and tanh."""

    layers: tuple[Head, ...]
    scale: Array
    offset: Array


class GaussianPolicy(NamedTuple):
    """A torso with two heads of `[dims]` outputs each."""

    torso: Torso
    mean: Head
    std: Head


class DeterministicPolicy(NamedTuple):
    """A torso with one head of `[dims]` outputs."""

    torso: Torso
    action: Head


class CriticNetwork(NamedTuple):
    """A torso on observation and action, with the critic's own head.

    `unit` is what the head's returns are measured in (`normalization.Unit`); None for the task's
    own unit, as in the paper.
    """

    torso: Torso
    head: Head
    unit: Any = None


def init_torso(key: Key, num_inputs: int, sizes: tuple[int, ...]) -> Torso:
    """Kernels even on +-0.333 sqrt(3 / inputs), biases 0.

    Arguments:
        key: consumed.
        num_inputs: of all inputs together.
        sizes: width of each layer.
    """
    widths = (num_inputs, *sizes)
    layers = tuple(
        Head(TORSO_INIT(layer_key, shape, jnp.float32), jnp.zeros(shape[1], jnp.float32))
        for layer_key, shape in zip(jax.random.split(key, len(sizes)), zip(widths, sizes))
    )
    return Torso(layers, jnp.ones(sizes[0], jnp.float32), jnp.zeros(sizes[0], jnp.float32))


def apply_torso(torso: Torso, *inputs: Float[Array, "... _"]) -> Float[Array, "*batch width"]:
    """Linear, layer norm, tanh; then linear and elu for every further layer.

    The inputs are as if concatenated along their last axis; their other axes are broadcast, at the
    cost of each input's own rows only.
    """
    first, *others = torso.layers
    batch = jnp.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    hidden, row = jnp.broadcast_to(first.bias, (*batch, first.bias.shape[0])), 0
    for x in inputs:
        part = jnp.matmul(x, first.kernel[row : row + x.shape[-1]])
        hidden, row = hidden + jnp.broadcast_to(part, hidden.shape), row + x.shape[-1]
    hidden = jnp.tanh(_layer_norm(hidden, torso.scale, torso.offset))
    for layer in others:
        hidden = _elu(_linear(layer, hidden))
    return hidden


def init_gaussian_policy(
    key: Key, observation_size: int, dims: int, sizes: tuple[int, ...]
) -> GaussianPolicy:
    """Means near 0, standard deviations near their initial value, whatever the observation."""
    torso_key, mean_key, std_key = jax.random.split(key, 3)
    heads = [_near_zero(head_key, sizes[-1], dims) for head_key in (mean_key, std_key)]
    return GaussianPolicy(init_torso(torso_key, observation_size, sizes), *heads)


def gaussian(
    policy: GaussianPolicy, observations: Float[Array, "batch observation"], init_std: int | float
) -> Gaussian:
    """The policy's law at some observations: `std = init_std softplus(x) / softplus(0) + 1e-6`.

    The mean is not squashed: actions outside [-1, 1] are the loss's business.
    """
    features = apply_torso(policy.torso, observations)
    raw = jax.nn.softplus(_linear(policy.std, features))
    return Gaussian(_linear(policy.mean, features), init_std / math.log(2) * raw + MIN_STD)


def init_deterministic_policy(
    key: Key, observation_size: int, dims: int, sizes: tuple[int, ...]
) -> DeterministicPolicy:
    """Actions near 0, whatever the observation."""
    torso_key, head_key = jax.random.split(key)
    torso = init_torso(torso_key, observation_size, sizes)
    return DeterministicPolicy(torso, _near_zero(head_key, sizes[-1], dims))


def deterministic(
    policy: DeterministicPolicy, observations: Float[Array, "batch observation"]
) -> Float[Array, "batch dims"]:
    """The action, squashed by tanh."""
    return jnp.tanh(_linear(policy.action, apply_torso(policy.torso, observations)))


def init_critic_network(
    critic: Critic, key: Key, observation_size: int, dims: int, sizes: tuple[int, ...]
) -> CriticNetwork:
    """A fresh torso, and the critic's own head."""
    torso_key, head_key = jax.random.split(key)
    torso = init_torso(torso_key, observation_size + dims, sizes)
    return CriticNetwork(torso, init_head(critic, head_key, sizes[-1]))


def returns(
    critic: Critic,
    network: CriticNetwork,
    observations: Float[Array, "batch observation"],
    actions: Float[Array, "*actions batch dims"],
) -> Any:
    """The critic's distributions, leaves `[*actions, batch, ...]`; actions count as clipped to
    [-1, 1], which is what the environment makes of them. Returns are in the network's unit.
    """
    features = apply_torso(network.torso, observations, jnp.clip(actions, -1, 1))
    return apply_head(critic, network.head, features)


def _near_zero(key: Key, num_features: int, dims: int) -> Head:
    kernel = NEAR_ZERO_INIT(key, (num_features, dims), jnp.float32)
    return Head(kernel, jnp.zeros(dims, jnp.float32))


def _linear(layer: Head, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
    outputs = jnp.matmul(x, layer.kernel)
    return outputs + jnp.broadcast_to(layer.bias, outputs.shape)


def _elu(x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
    """`x` above 0, `exp(x) - 1` below: half the time of `expm1`, whose last digits nobody needs."""
    below = jnp.exp(jnp.where(x > 0, 0.0, x)) - 1.0
    return jnp.where(x > 0, x, below)


def _layer_norm(
    x: Float[Array, "*batch width"], scale: Float[Array, " width"], offset: Float[Array, " width"]
) -> Float[Array, "*batch width"]:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    return normal * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(offset, x.shape)
