"""D4PG's step: the policy's gradient by finite differences, the critic's target by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learners import (
    batch,
    d4pg,
    leaves,
    moments,
    norm,
    numpy_torso,
    numpy_values,
    same,
    started,
    step,
)

from matchbook.control import networks
from matchbook.critics import Categorical, MixtureOfGaussians, Quantile, Scalar

PLAIN = d4pg(Scalar(), max_action_gradient=0.05, target_period=2)


def numpy_actions(policy, observations):
    features = numpy_torso(policy.torso, observations)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), policy.action)
    return np.tanh(features @ head.kernel + head.bias)


def test_critic_loss_by_hand():
    state, data = started(PLAIN), batch()
    _, metrics = step(PLAIN, state, data)
    first, taken, rewards, discounts, following = (np.asarray(x, np.float64) for x in data)
    actions = numpy_actions(state.target.policy, following)
    targets = rewards + discounts * numpy_values(state.target.critic, following, actions)
    errors = targets - numpy_values(state.online.critic, first, taken)
    np.testing.assert_allclose(metrics["critic_loss"], 0.5 * np.mean(errors**2), rtol=1e-4)


def test_policy_gradient_by_finite_differences():
    """Of minus the online critic's mean value at the next states that are not the end, with each
    row's gradient in its action clipped in length.
    """
    state, data = started(PLAIN), batch()
    new, metrics = step(PLAIN, state, data)
    following = np.asarray(data.next_observations, np.float64)
    goes_on = np.asarray(data.discounts) > 0
    actions = numpy_actions(state.online.policy, following)

    def values(actions):
        return numpy_values(state.online.critic, following, actions)

    units = 1e-5 * np.eye(2)
    uphill = np.stack([(values(actions + e) - values(actions - e)) / 2e-5 for e in units], axis=1)
    lengths = np.linalg.norm(uphill, axis=1) * goes_on
    np.testing.assert_allclose(metrics["action_gradient"], lengths.mean(), rtol=1e-3)
    clips = lengths > PLAIN.max_action_gradient
    assert 0 < clips.sum() < goes_on.sum(), lengths
    shares = np.minimum(1, PLAIN.max_action_gradient / np.maximum(lengths, 1e-9)) * goes_on
    pulls = uphill * shares[:, None]

    like = leaves(state.online.policy)
    edges = np.cumsum([x.size for x in like])[:-1]
    flat = np.concatenate([np.ravel(x) for x in like]).astype(np.float64)

    def loss(parameters):
        parts = [part.reshape(x.shape) for part, x in zip(np.split(parameters, edges), like)]
        policy = jax.tree.unflatten(jax.tree.structure(state.online.policy), parts)
        return -np.mean(np.sum(pulls * numpy_actions(policy, following), axis=1))

    moment = leaves(moments(new.optimizer.policy))
    gradient = 10 * np.concatenate([np.ravel(leaf) for leaf in moment]).astype(np.float64)
    assert norm(moment) < 0.1 * PLAIN.max_gradient_norm
    rng = np.random.default_rng(0)
    for _ in range(5):
        direction = rng.normal(size=flat.shape)
        slope = (loss(flat + 1e-5 * direction) - loss(flat - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(gradient @ direction, slope, rtol=2e-3, atol=1e-5)


def test_huge_gradients_are_clipped():
    new, _ = step(PLAIN, started(PLAIN), batch(reward=1e6))
    np.testing.assert_allclose(norm(moments(new.optimizer.critic)), 4.0, rtol=1e-5)


def test_targets_are_copied_together():
    state = started(PLAIN)
    for i in range(1, 5):
        old, (state, _) = state, step(PLAIN, state, batch(i))
        assert same(state.target, state.online if i % 2 == 0 else old.target)


def test_the_mixture_takes_a_step():
    learner = d4pg(MixtureOfGaussians(estimator="sampled", num_samples=8))
    before = started(learner)
    after, metrics = step(learner, before, batch())
    assert all(np.isfinite(value) for value in metrics.values())
    assert not same(before.online.policy, after.online.policy)
    assert not same(before.online.critic, after.online.critic)


@pytest.mark.parametrize("critic", [Categorical(), Quantile()], ids=lambda c: type(c).__name__)
def test_every_critic_fits(critic):
    learner = d4pg(critic)
    state = jax.eval_shape(lambda: learner.init(0))
    new, _ = jax.eval_shape(learner.step, state, batch())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )


def test_exploration_is_noise_of_a_fixed_size():
    policy = started(PLAIN).online.policy
    observations, noise = batch().observations, batch(1).actions
    mean = networks.deterministic(policy, observations)
    np.testing.assert_allclose(
        PLAIN.act(policy, observations, noise), mean + 0.3 * noise, rtol=1e-6
    )
    still = PLAIN.act(policy, observations, jnp.zeros_like(noise))
    np.testing.assert_array_equal(still, mean)
