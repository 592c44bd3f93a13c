"""MPO's losses against rlax, closed forms, scipy, and the flow of gradients that they promise."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from matchbook.control import mpo
from matchbook.control.closed_forms import max_mean_step, quadratic_e_step

GOLDENS = Path(__file__).parents[1] / "goldens" / "critics"


def policies(seed, batch=4, dims=3):
    rng = np.random.default_rng(seed)
    shape = (batch, dims)
    return mpo.Gaussian(
        jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32),
        jnp.asarray(np.exp(0.3 * rng.normal(size=shape)), jnp.float32),
    )


def problem(seed, actions=6, batch=4, dims=3):
    rng, target = np.random.default_rng(seed), policies(seed, batch, dims)
    noise = jnp.asarray(rng.normal(size=(actions, batch, dims)), jnp.float32)
    q_values = jnp.asarray(rng.normal(size=(actions, batch)), jnp.float32)
    return q_values, target.mean[None] + target.std[None] * noise, target


def test_e_step_is_rlaxs():
    with np.load(GOLDENS / "e_step.npz") as golden:
        q_values = jnp.asarray(golden["q_values"])
        for i, temperature in enumerate(jnp.asarray(golden["temperatures"])):
            differentiate = jax.value_and_grad(mpo.temperature_loss, argnums=1)
            loss, gradient = differentiate(q_values, temperature, 0.1)
            np.testing.assert_allclose(loss, golden["losses"][i], rtol=2e-6)
            np.testing.assert_allclose(gradient, golden["gradients"][i], rtol=2e-5)
            weights = mpo.improvement_weights(q_values, temperature)
            np.testing.assert_allclose(weights, golden["weights"][i], atol=1e-6)


def test_temperature_loss_is_least_at_the_closed_form():
    """N(0, 1) as 200,001 equally likely actions; the weighted actions have the improved law."""
    golden = quadratic_e_step(2.0, 1.0, 0.1)
    actions = norm.ppf((np.arange(200_001) + 0.5) / 200_001)[:, None]
    q_values = jnp.asarray(2 * actions - actions**2 / 2, jnp.float32)
    slope = jax.jit(jax.grad(mpo.temperature_loss, argnums=1), static_argnums=2)
    temperature = jnp.asarray(golden.temperature, jnp.float32)
    assert slope(q_values, 0.999 * temperature, 0.1) < 0 < slope(q_values, 1.001 * temperature, 0.1)
    weights = mpo.improvement_weights(q_values, temperature)
    np.testing.assert_allclose(mpo.improvement_kl(weights), 0.1, rtol=1e-3)
    weights = np.asarray(weights, np.float64)
    mean = np.sum(weights * actions)
    np.testing.assert_allclose(mean, golden.mean, rtol=1e-3)
    np.testing.assert_allclose(np.sum(weights * (actions - mean) ** 2), golden.variance, rtol=1e-3)


def test_decoupled_kl_by_integration():
    target, online = policies(0, 1, 1), policies(1, 1, 1)
    grid = np.linspace(-15, 15, 200_001)
    m, s = float(target.mean[0, 0]), float(target.std[0, 0])
    density = norm.pdf(grid, m, s)

    def kl(mean, std):
        gap = norm.logpdf(grid, m, s) - norm.logpdf(grid, mean, std)
        return np.sum(density * gap) * (grid[1] - grid[0])

    of_mean, of_std = mpo.decoupled_kl(target, online)
    np.testing.assert_allclose(of_mean[0, 0], kl(float(online.mean[0, 0]), s), rtol=1e-5)
    np.testing.assert_allclose(of_std[0, 0], kl(m, float(online.std[0, 0])), rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 0.0025])
def test_the_mean_step_spends_its_epsilon(epsilon):
    target = mpo.Gaussian(jnp.zeros((1, 1)), jnp.full((1, 1), 0.5))
    online = target._replace(mean=target.mean + max_mean_step(epsilon, 0.5))
    of_mean, of_std = mpo.decoupled_kl(target, online)
    np.testing.assert_allclose(of_mean[0, 0], epsilon, rtol=1e-5)
    np.testing.assert_array_equal(of_std, 0.0)


def test_policy_loss_by_hand():
    q_values, actions, target = problem(2)
    online, weights = policies(3), mpo.improvement_weights(q_values, jnp.float32(0.7))
    a, w = np.asarray(actions, np.float64), np.asarray(weights, np.float64)
    log_probs = norm.logpdf(a, online.mean, target.std) + norm.logpdf(a, target.mean, online.std)
    expected = -(w * log_probs.sum(-1)).sum(0).mean()
    loss = mpo.policy_loss(actions, weights, target, online)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_penalty_is_the_distance_to_the_box():
    actions = jnp.asarray([[[0.5, -0.9], [1.0, 4.0], [-4.0, -5.0]]])
    np.testing.assert_allclose(mpo.action_penalty(actions), [[0.0, -3.0, -5.0]])


def test_fresh_duals_and_their_floor():
    duals = mpo.init_duals(3)
    np.testing.assert_allclose(mpo.dual(duals.temperature), 10.00005, rtol=1e-6)
    np.testing.assert_allclose(mpo.dual(duals.std), np.full(3, 1000.0))
    sunk = mpo.project(jax.tree.map(lambda raw: raw - 2000.0, duals))
    assert all(np.all(leaf == -18.0) for leaf in sunk)
    assert jax.grad(mpo.dual)(sunk.temperature) > 0


def total(duals, online, q_values, actions, target):
    return mpo.loss(mpo.TrustRegion(), duals, q_values, actions, target, online)[0]


def test_loss_is_the_sum_of_its_parts():
    q_values, actions, target = problem(4)
    online, duals, region = policies(5), mpo.init_duals(3), mpo.TrustRegion()
    eta, eta_penalty = mpo.dual(duals.temperature), mpo.dual(duals.penalty_temperature)
    penalties = mpo.action_penalty(actions)
    weights = mpo.improvement_weights(q_values, eta)
    weights = weights + mpo.improvement_weights(penalties, eta_penalty)
    kls = [np.mean(kl, axis=0) for kl in mpo.decoupled_kl(target, online)]
    expected = (
        mpo.policy_loss(actions, weights, target, online)
        + mpo.temperature_loss(q_values, eta, region.epsilon)
        + mpo.temperature_loss(penalties, eta_penalty, region.epsilon_penalty)
        + sum(  # the multiplier's and the policy's terms cancel but for epsilon
            np.sum(np.asarray(mpo.dual(raw)) * epsilon)
            for raw, epsilon in ((duals.mean, region.epsilon_mean), (duals.std, region.epsilon_std))
        )
    )
    np.testing.assert_allclose(total(duals, online, q_values, actions, target), expected, rtol=1e-4)
    assert all(np.all(kl >= 0) for kl in kls)


def test_each_part_moves_its_own_parameters():
    """Nothing flows into Q, actions or the target; temperatures feel only their own dual."""
    q_values, actions, target = problem(6)
    online, duals = policies(7), mpo.init_duals(3)
    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2, 4)))(
        duals, online, q_values, actions, target
    )
    of_duals, of_online, of_q_values, of_target = gradients
    np.testing.assert_array_equal(of_q_values, 0.0)
    for leaf in of_target:
        np.testing.assert_array_equal(leaf, 0.0)
    assert all(np.all(leaf != 0) for leaf in of_online)
    slope = jax.grad(lambda raw: mpo.temperature_loss(q_values, mpo.dual(raw), 0.1))
    np.testing.assert_allclose(of_duals.temperature, slope(duals.temperature), rtol=1e-5)


def test_multipliers_rise_when_the_policy_has_gone_too_far_and_fall_when_not():
    q_values, actions, target = problem(8)
    slope = jax.jit(jax.grad(total))
    still = slope(mpo.init_duals(3), target, q_values, actions, target)
    assert np.all(still.mean > 0)  # descent lowers them
    assert np.all(still.std > 0)
    away = mpo.Gaussian(target.mean + 1.0, 2 * target.std)
    moved = slope(mpo.init_duals(3), away, q_values, actions, target)
    assert np.all(moved.mean < 0)
    assert np.all(moved.std < 0)


def test_better_actions_pull_the_mean():
    """With Q = a, one gradient step moves every mean up."""
    _, actions, target = problem(9, actions=64)
    pull = jax.jit(jax.grad(total, argnums=1))(
        mpo.init_duals(3), target, 20 * jnp.sum(actions, axis=-1), actions, target
    )
    assert np.all(np.mean(pull.mean, axis=0) < 0)
