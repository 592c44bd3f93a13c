"""The critic network alone: it comes close to a value that is a formula, and a reader reads it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.control import LinearQuadratic, PolicyEvaluation, Reader, ReturnUnits
from matchbook.control.policy_evaluation import FixedPolicyBatch
from matchbook.control.transitions import Transition
from matchbook.critics import MixtureOfGaussians, Scalar

PROBLEM = LinearQuadratic(a=0.8, b=0.5, q=1.0, r=0.3, noise=0.2, discount=0.5)
STD, MAX_ACTION = 0.3, 4.0
SMALL = {"observation_size": 1, "action_size": 1, "sizes": (16,), "target_period": 10}
STEPS = 1500


@functools.cache
def batches(scale, num=64, num_actions=2):
    """Transitions of `u = -gain x + noise`, `[STEPS, num, ...]`, all rewards times `scale`."""
    p, rng = PROBLEM, np.random.default_rng(0)

    def act(x, noise):
        return (STD * noise - p.gain * x) / MAX_ACTION

    x, push, noise = rng.normal(size=(3, STEPS, num, 1))
    actions = act(x, push)
    u = MAX_ACTION * actions
    rewards = -scale * (p.q * x**2 + p.r * u**2)[..., 0]
    following = p.a * x + p.b * u + p.noise * noise
    leaves = x, actions, rewards, np.full(rewards.shape, p.discount), following
    next_noise = rng.normal(size=(STEPS, num_actions, num, 1))
    drawn = FixedPolicyBatch(
        Transition(*leaves), act(following[:, None], next_noise), np.ones(rewards.shape)
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn)


def trained(one, scale=1.0):
    scan = jax.jit(lambda s, b: jax.lax.scan(one.step, s, b)[0])
    return scan(one.init(0), batches(scale))


def value_error(one, state, scale=1.0):
    x, offset = (leaf.ravel() for leaf in np.meshgrid(np.linspace(-1.5, 1.5, 21), [-1, 0, 1]))
    u = -PROBLEM.gain * x + STD * offset
    exact = scale * PROBLEM.policy_action_value(PROBLEM.gain, STD, x, u)
    ours = one.values(state, x[:, None], u[:, None] / MAX_ACTION)
    return np.sqrt(np.mean((ours - exact) ** 2)) / np.std(exact)


def test_a_scalar_critic_learns_the_value_at_any_scale_in_its_unit():
    one = PolicyEvaluation(
        critic=Scalar(), learning_rate=3e-3, units=ReturnUnits(rate=1e-2), **SMALL
    )
    errors = [value_error(one, trained(one, scale), scale) for scale in (0.01, 100.0)]
    assert max(errors) < 0.35
    np.testing.assert_allclose(*errors, rtol=0.2)


def test_a_reader_learns_the_value_too_and_leaves_no_trace():
    mixture = MixtureOfGaussians(components=2, num_nodes=2, init_scale=1.0)
    learner = PolicyEvaluation(critic=mixture, learning_rate=3e-3, **SMALL)
    reader = Reader(learner=learner, critic=Scalar())
    state, alone = trained(reader), trained(learner)
    assert value_error(reader, state) < 0.5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        state[0].online,
        alone.online,
    )


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_weights_multiply_each_loss(weight):
    """Weights of 0 hide a row; equal ones multiply the loss."""
    one = PolicyEvaluation(critic=Scalar(), **SMALL)
    state, batch = one.init(0), jax.tree.map(lambda leaf: leaf[0], batches(1.0))
    weights = jnp.where(jnp.arange(64) < 32, 2.0, 2.0 * weight)
    _, metrics = one.step(state, batch._replace(weights=weights))
    halves = [
        jax.tree.map(lambda leaf, s=s: leaf[..., s, :] if leaf.ndim > 1 else leaf[s], batch)
        for s in (slice(32), slice(32, 64))
    ]
    losses = [one.step(state, half)[1]["critic_loss"] for half in halves]
    np.testing.assert_allclose(metrics["critic_loss"], losses[0] + weight * losses[1], rtol=1e-5)
