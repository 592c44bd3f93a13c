"""The networks against a forward pass written out in NumPy, in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from learners import filled, numpy_torso

from matchbook.control import networks
from matchbook.critics import MixtureOfGaussians, Scalar

SIZES, KEY = (16, 8, 4), jax.random.key(0)
returns = jax.jit(networks.returns, static_argnums=0)
gaussian = jax.jit(networks.gaussian, static_argnums=2)


def shapes(init, *arguments):
    return jax.eval_shape(lambda: init(*arguments))


def made(init, *arguments):
    return jax.jit(lambda: init(*arguments))()


def test_many_actions_at_a_state_are_the_concatenated_inputs():
    rng, critic = np.random.default_rng(0), Scalar()
    network = filled(shapes(networks.init_critic_network, critic, KEY, 3, 2, SIZES), 0)
    observations, actions = rng.normal(size=(5, 3)), 2 * rng.normal(size=(7, 5, 2))
    value = returns(
        critic, network, jnp.asarray(observations, jnp.float32), jnp.asarray(actions, jnp.float32)
    ).value
    assert value.shape == (7, 5)
    for i in range(7):
        inputs = np.concatenate([observations, np.clip(actions[i], -1, 1)], axis=1)
        features = numpy_torso(network.torso, inputs)
        expected = features @ np.asarray(network.head.kernel) + np.asarray(network.head.bias)
        np.testing.assert_allclose(value[i], expected[:, 0], rtol=2e-5, atol=1e-5)


def test_gaussian_policy_by_hand():
    policy = filled(shapes(networks.init_gaussian_policy, KEY, 3, 2, SIZES), 1)
    observations = np.random.default_rng(1).normal(size=(6, 3))
    law = gaussian(policy, jnp.asarray(observations, jnp.float32), 0.7)
    features = numpy_torso(policy.torso, observations)
    mean, raw = (features @ np.asarray(h.kernel) + np.asarray(h.bias) for h in policy[1:])
    np.testing.assert_allclose(law.mean, mean, rtol=2e-5, atol=1e-5)
    expected = 0.7 / math.log(2) * np.logaddexp(raw, 0) + 1e-6
    np.testing.assert_allclose(law.std, expected, rtol=2e-5)


def test_deterministic_policy_by_hand():
    policy = filled(shapes(networks.init_deterministic_policy, KEY, 3, 2, SIZES), 2)
    observations = np.random.default_rng(2).normal(size=(6, 3))
    actions = networks.deterministic(policy, jnp.asarray(observations, jnp.float32))
    head = policy.action
    raw = numpy_torso(policy.torso, observations) @ np.asarray(head.kernel) + np.asarray(head.bias)
    np.testing.assert_allclose(actions, np.tanh(raw), rtol=2e-5, atol=1e-5)


def test_fresh_networks_start_where_the_paper_starts():
    """Uniform kernels on +-0.333 sqrt(3 / inputs); means at 0, std at its start, returns at 0."""
    policy = made(networks.init_gaussian_policy, jax.random.key(0), 50, 4, (64, 64))
    kernel = np.asarray(policy.torso.layers[0].kernel)
    bound = 0.333 * math.sqrt(3 / 50)
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / math.sqrt(3), rtol=0.03)
    observations = jnp.asarray(np.random.default_rng(3).normal(size=(9, 50)), jnp.float32)
    law = gaussian(policy, observations, 0.7)
    assert np.abs(law.mean).max() < 0.05
    np.testing.assert_allclose(law.std, 0.7, rtol=0.05)
    critic = MixtureOfGaussians()
    network = made(networks.init_critic_network, critic, jax.random.key(1), 50, 4, (64, 64))
    laws = returns(critic, network, observations, law.mean)
    assert np.abs(critic.mean(laws)).max() < 0.05
    np.testing.assert_allclose(laws.scales, 1.1e-3, rtol=0.1)
