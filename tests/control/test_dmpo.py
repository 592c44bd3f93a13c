"""DMPO's step against a step written out in NumPy, and what it must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learners import (
    batch,
    dmpo,
    leaves,
    moments,
    norm,
    numpy_values,
    same,
    started,
    step,
    steps,
)

from matchbook.control import mpo, networks
from matchbook.control.closed_forms import LinearQuadratic
from matchbook.critics import Categorical, MixtureOfGaussians, Quantile, Scalar

PLAIN = dmpo(Scalar(), target_policy_period=2, target_critic_period=3)


returns = jax.jit(networks.returns, static_argnums=0)
policy = jax.jit(PLAIN.policy)


def test_critic_loss_and_value_by_hand():
    """Target policy's actions at the next states, target critic there, online critic at the first
    states; after the end of an episode everything is worth 0.
    """
    state, data = started(PLAIN), batch()
    _, metrics = step(PLAIN, state, data)
    key = jax.random.split(jax.random.fold_in(state.key, 0))[0]
    law = policy(state.target.policy, data.next_observations)
    noise = jax.random.normal(key, (4, 8, 2), jnp.float32)
    actions = np.asarray(law.mean)[None] + np.asarray(law.std)[None] * np.asarray(noise)
    first, taken, rewards, discounts, following = (np.asarray(x, np.float64) for x in data)
    next_values = np.stack([numpy_values(state.target.critic, following, a) for a in actions])
    targets = rewards + discounts * next_values.mean(0)
    errors = targets - numpy_values(state.online.critic, first, taken)
    np.testing.assert_allclose(metrics["critic_loss"], 0.5 * np.mean(errors**2), rtol=1e-4)
    np.testing.assert_allclose(
        metrics["value"], np.mean(next_values * (discounts > 0)), rtol=1e-4, atol=1e-6
    )
    q_values = jnp.asarray(next_values * (discounts > 0), jnp.float32)
    online = policy(state.online.policy, data.next_observations)
    loss = jax.jit(mpo.loss, static_argnums=0)
    region, drawn = mpo.TrustRegion(), jnp.asarray(actions)
    expected, _ = loss(region, state.duals, q_values, drawn, law, online)
    np.testing.assert_allclose(metrics["policy_loss"], expected, rtol=1e-4)


def test_each_loss_is_on_its_own_states():
    """The first states move the critic alone; ends of episodes hide the next ones from it."""
    state, data = started(PLAIN), batch()
    there, _ = step(PLAIN, state, data)
    elsewhere, _ = step(PLAIN, state, data._replace(observations=data.observations + 1))
    assert same(there.online.policy, elsewhere.online.policy)
    assert same(there.duals, elsewhere.duals)
    assert not same(there.online.critic, elsewhere.online.critic)
    over = data._replace(discounts=jnp.zeros_like(data.discounts))
    one, _ = step(PLAIN, state, over)
    other, _ = step(PLAIN, state, over._replace(next_observations=1 + data.next_observations))
    assert same(one.online.critic, other.online.critic)
    assert not same(one.online.policy, other.online.policy)


def test_critics_are_evaluated_once_each():
    shapes = []

    class Spy(Scalar):
        def distribution(self, outputs):
            shapes.append(outputs.shape)
            return super().distribution(outputs)

    learner = dmpo(Spy())
    jax.eval_shape(learner.step, jax.eval_shape(lambda: learner.init(0)), batch())
    assert sorted(shapes) == [(4, 8, 1), (8, 1)]


def test_targets_are_copied_with_their_own_periods():
    state = started(PLAIN)
    for i in range(1, 7):
        old, (state, _) = state, step(PLAIN, state, batch(i))
        policy = state.online.policy if i % 2 == 0 else old.target.policy
        critic = state.online.critic if i % 3 == 0 else old.target.critic
        assert same(state.target.policy, policy)
        assert same(state.target.critic, critic)
        assert not same(state.online.policy, old.online.policy)
        assert int(state.step) == i


def test_clipping_clips():
    """Huge rewards: what reaches Adam has norm 40, in the gradient's own direction; duals have no
    clip; small gradients pass as they are.
    """
    free = dmpo(Scalar(), max_gradient_norm=1e12)
    state, huge = started(PLAIN), batch(reward=1e6)
    clipped, unclipped = (step(learner, state, huge)[0] for learner in (PLAIN, free))
    ours, full = (moments(s.optimizer.critic) for s in (clipped, unclipped))
    assert norm(full) > 0.1 * 40 * 100
    np.testing.assert_allclose(norm(ours), 4.0, rtol=1e-5)
    for a, b in zip(leaves(ours), leaves(full), strict=True):
        np.testing.assert_allclose(a, np.asarray(b) * 4.0 / norm(full), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm(moments(clipped.optimizer.policy)), 4.0, rtol=1e-5)
    gentle = [step(learner, state, batch(reward=0.01))[0] for learner in (PLAIN, free)]
    assert 0.1 < norm(moments(gentle[1].optimizer.critic)) < 4.0
    assert same(gentle[0].online.critic, gentle[1].online.critic)


def test_several_updates_in_a_dispatch_are_single_ones():
    batches = batch(3, leading=(5,))
    state, total = started(PLAIN), []
    for i in range(5):
        state, metrics = step(PLAIN, state, jax.tree.map(lambda x, i=i: x[i], batches))
        total.append(metrics["critic_loss"])
    together, metrics = steps(PLAIN, started(PLAIN), batches)
    np.testing.assert_allclose(metrics["critic_loss"], np.mean(total), rtol=1e-5)
    for a, b in zip(leaves(together.online), leaves(state.online), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "critic",
    [
        MixtureOfGaussians(estimator="sampled", num_samples=8, init_scale=0.1),
        Categorical(num_atoms=11, v_min=-1.0, v_max=1.0),
    ],
    ids=lambda critic: type(critic).__name__,
)
def test_every_critic_learns_a_constant_reward(critic):
    """Reward 0.2 and the end: the critic's mean goes there."""
    small = {"policy_sizes": (16,), "critic_sizes": (16,), "num_actions": 2}
    learner = dmpo(critic, learning_rate=3e-3, **small)
    data = batch(size=16)
    data = data._replace(
        rewards=jnp.full(16, 0.2, jnp.float32), discounts=jnp.zeros_like(data.discounts)
    )
    repeated = jax.tree.map(lambda x: jnp.broadcast_to(x, (150, *x.shape)), data)
    before = started(learner)
    after, metrics = steps(learner, before, repeated)
    assert all(np.isfinite(value) for value in metrics.values())
    laws = returns(critic, after.online.critic, data.observations, data.actions)
    np.testing.assert_allclose(critic.mean(laws), 0.2, atol=0.1)
    assert not same(before.online.policy, after.online.policy)


def test_the_quantile_critic_fits():
    learner = dmpo(Quantile())
    state = jax.eval_shape(lambda: learner.init(0))
    new, _ = jax.eval_shape(learner.step, state, batch())
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)


def test_policy_finds_the_gain_of_a_linear_quadratic_problem():
    """E-step and M-step on the optimal action values, for a linear policy `u = -gain x`."""
    problem = LinearQuadratic(a=0.9, b=0.5, q=1.0, r=0.1, noise=0.3, discount=0.95)
    region, rate = mpo.TrustRegion(epsilon_mean=0.01, epsilon_std=1e-3), 3e-3
    duals = mpo.init_duals(1)

    def law(parameters, x):
        mean, std = parameters
        return mpo.Gaussian(-mean * x, jnp.broadcast_to(jnp.exp(std), x.shape))

    def improve(carry, key):
        online, target, duals, moment, i = carry
        state_key, action_key = jax.random.split(key)
        x = jax.random.normal(state_key, (64, 1), jnp.float32)
        behind = law(target, x)
        noise = jax.random.normal(action_key, (20, 64, 1), jnp.float32)
        u = behind.mean[None] + behind.std[None] * noise
        x0, u0 = jnp.broadcast_to(x[None], u.shape)[..., 0], u[..., 0]
        following = problem.a * x0 + problem.b * u0
        p, g = problem.cost, problem.discount
        q_values = -(problem.q * x0**2 + problem.r * u0**2 + g * p * following**2)

        def total(online, duals):  # actions stay small here: the box would be another problem
            return mpo.loss(region, duals, q_values, 0.1 * u, *scaled(behind, law(online, x)))[0]

        def scaled(*laws):
            return [mpo.Gaussian(0.1 * one.mean, 0.1 * one.std) for one in laws]

        slope, dual_slope = jax.grad(total, argnums=(0, 1))(online, duals)
        moment = jax.tree.map(lambda m, s: 0.99 * m + 0.01 * s**2, moment, (slope, dual_slope))
        unit = jax.tree.map(lambda s, m: s / jnp.sqrt(m + 1e-12), (slope, dual_slope), moment)
        online = jax.tree.map(lambda p, s: p - rate * s, online, unit[0])
        duals = mpo.project(jax.tree.map(lambda p, s: p - 0.03 * s, duals, unit[1]))
        copied = jax.tree.map(lambda o, t: jnp.where(i % 20 == 0, o, t), online, target)
        return (online, copied, duals, moment, i + 1), online[0]

    start = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    zeros = jax.tree.map(jnp.zeros_like, (start, duals))
    carry = start, start, duals, zeros, jnp.zeros((), jnp.int32)
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 3000)
    _, gains = jax.jit(lambda c: jax.lax.scan(improve, c, keys))(carry)
    np.testing.assert_allclose(np.mean(gains[-500:]), problem.gain, rtol=0.03)
