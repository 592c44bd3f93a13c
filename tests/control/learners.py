"""Tiny learners, batches and compiled steps that the tests of the agents share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from matchbook.control import mpo
from matchbook.control.d4pg import D4PG
from matchbook.control.dmpo import DMPO
from matchbook.control.learning import State, update
from matchbook.control.transitions import Transition


def dmpo(critic, **settings):
    settings = {"policy_sizes": (32, 32), "critic_sizes": (32, 32), "num_actions": 4} | settings
    return DMPO(observation_size=3, action_size=2, critic=critic, **settings)


def d4pg(critic, **settings):
    settings = {"policy_sizes": (32, 32), "critic_sizes": (32, 32)} | settings
    return D4PG(observation_size=3, action_size=2, critic=critic, **settings)


def batch(seed=0, size=8, reward=1.0, leading=()):
    """Random transitions; every third one ends its episode."""
    rng, shape = np.random.default_rng(seed), (*leading, size)
    observations, following = rng.normal(size=(2, *shape, 3))
    discounts = np.broadcast_to(np.where(np.arange(size) % 3 == 2, 0, 0.95), shape)
    fields = (
        observations,
        rng.normal(size=(*shape, 2)),
        reward * rng.normal(size=shape),
        discounts,
        following,
    )
    return Transition(*(jnp.asarray(field, jnp.float32) for field in fields))


@functools.partial(jax.jit, static_argnums=0)
def step(learner, state, batch):
    return learner.step(state, batch)


@functools.partial(jax.jit, static_argnums=0)
def steps(learner, state, batches):
    return update(learner, state, batches)


def norm(tree):
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in leaves(tree))))


def leaves(tree):
    return jax.tree.leaves(tree)


def moments(optimizer_state):
    """Adam's first moments: a tenth of the first gradient it saw."""
    return optimizer_state[1][0].mu


def same(one, other):
    return all(
        np.array_equal(_raw(a), _raw(b)) for a, b in zip(leaves(one), leaves(other), strict=True)
    )


def _raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def numpy_torso(torso, inputs):
    """One concatenated input: linear, layer norm, tanh, then linear and elu."""
    first, *others = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), torso.layers)
    x = inputs @ first.kernel + first.bias
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = np.tanh(x * np.asarray(torso.scale) + np.asarray(torso.offset))
    for layer in others:
        x = x @ layer.kernel + layer.bias
        x = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    return x


@functools.cache
def started(learner, seed=0):
    """A state with random networks, filled in NumPy: nothing is compiled for it."""
    shapes = jax.eval_shape(lambda: learner.init(0))
    online, target = filled(shapes.online, seed), filled(shapes.target, seed + 1)
    optimizer = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.optimizer)
    rest = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.duals_optimizer)
    duals = mpo.init_duals(learner.action_size) if shapes.duals else ()
    zero, key = jnp.zeros((), jnp.int32), jax.random.key(seed, impl="rbg")
    return State(online, target, duals, optimizer, rest, key, zero)


def filled(shapes, seed):
    """Random numbers of about the size that keeps features what they are."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) / np.sqrt(x.shape[0]), x.dtype), shapes
    )


def numpy_values(network, observations, actions):
    inputs = np.concatenate([observations, np.clip(actions, -1, 1)], axis=-1)
    features = numpy_torso(network.torso, inputs)
    return (features @ np.asarray(network.head.kernel) + np.asarray(network.head.bias))[..., 0]
