"""The mixture of Gaussians against scipy, quadrature in float64, and its gradients by formula."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from matchbook.critics import Mixture, MixtureOfGaussians, Target, apply_head, facts, init_head


def mixture(seed, shape, components=3):
    logits, means, scales = np.random.default_rng(seed).normal(size=(3, *shape, components))
    leaves = logits, 2 * means, np.exp(0.5 * scales)
    return Mixture(*(jnp.asarray(leaf, jnp.float32) for leaf in leaves))


def in_float64(law):
    logits, means, scales = (np.asarray(leaf, np.float64) for leaf in law)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return weights, means, scales


def test_density_and_cdf_are_weighted_normal_ones():
    critic, law = MixtureOfGaussians(components=3), mixture(0, (4,))
    weights, means, scales = in_float64(law)
    values = np.linspace(-6, 6, 31)[:, None] * np.ones(4)
    density = (weights * scipy.stats.norm.pdf(values[..., None], means, scales)).sum(-1)
    cdf = (weights * scipy.stats.norm.cdf(values[..., None], means, scales)).sum(-1)
    values = jnp.asarray(values, jnp.float32)
    np.testing.assert_allclose(jax.jit(critic.log_density)(law, values), np.log(density), atol=2e-5)
    np.testing.assert_allclose(jax.jit(critic.cdf)(law, values), cdf, atol=1e-6)


def test_log_density_far_away_is_finite_and_right():
    """1,000 standard deviations off, where the density itself underflows."""
    critic = MixtureOfGaussians(components=1)
    law = Mixture(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.full((1, 1), 1e-3))
    expected = scipy.stats.norm.logpdf(1.0, 0.0, 1e-3)
    ours = jax.jit(critic.log_density)(law, jnp.ones((1, 1)))[0, 0]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_a_fresh_head_is_at_the_origin_with_even_weights_and_the_initial_scale():
    critic = MixtureOfGaussians(init_scale=0.25, min_scale=0.01)
    features = jax.random.normal(jax.random.key(1), (100, 256))
    law = jax.jit(partial(apply_head, critic))(init_head(critic, jax.random.key(0), 256), features)
    np.testing.assert_allclose(jax.nn.softmax(law.logits), 0.2, atol=0.003)
    np.testing.assert_allclose(law.means, 0.0, atol=0.02)
    np.testing.assert_allclose(law.scales, 0.26, atol=0.003)
    # Variance 1e-5 over 256 features of variance 1: the raw means have a std of 1e-2.5.
    np.testing.assert_allclose(np.std(law.means), 10**-2.5, rtol=0.2)


def test_a_component_that_drifts_off_stays_finite_and_can_come_back():
    """Seen in training: one without weight had a scale of 1e36, and the next loss was NaN."""
    critic = MixtureOfGaussians(components=2, init_scale=2.0, widths="exp", widest=10.0)
    outputs = jnp.asarray([[0.0, -30.0, 0.0, 1.0, 0.0, 500.0]], jnp.float32)
    scales = jax.jit(critic.distribution)(outputs).scales
    np.testing.assert_allclose(scales, [[2.0, 20.0]], rtol=1e-4)

    @jax.jit
    @jax.value_and_grad
    def loss(outputs):
        law = critic.distribution(outputs)
        following = jax.tree.map(lambda leaf: leaf[None], law)
        target = Target(jnp.zeros(1), jnp.full(1, 0.9), following)
        return jnp.sum(critic.loss(law, target, jax.random.key(0)))

    value, gradient = loss(outputs.at[0, 1].set(0.0))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert gradient[0, 5] > 0  # descending makes it narrower


def test_scale_is_a_softplus_through_the_initial_scale():
    critic = MixtureOfGaussians(components=1, init_scale=1e-3, min_scale=1e-4)
    raw = np.array([-30.0, -2.0, 0.0, 3.0, 4850.0])
    outputs = jnp.asarray(np.stack([raw * 0, raw * 0, raw], -1), jnp.float32)
    expected = 1e-3 * np.logaddexp(0, raw) / np.log(2) + 1e-4
    np.testing.assert_allclose(critic.distribution(outputs).scales[:, 0], expected, rtol=2e-6)


@pytest.mark.parametrize("actions", [1, 3])
def test_quadrature_reaches_the_exact_cross_entropy(actions):
    critic = MixtureOfGaussians(components=3, estimator="quadrature", num_nodes=32)
    model, following = mixture(2, (2,)), mixture(3, (actions, 2))
    rewards, discounts = np.array([0.4, -1.0]), np.array([0.9, 0.5])
    weights, means, scales = in_float64(following)
    grid = np.linspace(-25, 25, 40_001)
    exact = []
    for row in range(2):
        law = sum(
            weights[a, row, k]
            * scipy.stats.norm.pdf(
                grid,
                rewards[row] + discounts[row] * means[a, row, k],
                discounts[row] * scales[a, row, k],
            )
            for a in range(actions)
            for k in range(3)
        )
        w, m, s = (leaf[row] for leaf in in_float64(model))
        log_model = np.log((w * scipy.stats.norm.pdf(grid[:, None], m, s)).sum(-1))
        exact.append(-np.sum(law * log_model) / np.sum(law))
    rewards, discounts = jnp.asarray(rewards, jnp.float32), jnp.asarray(discounts, jnp.float32)
    loss = jax.jit(critic.loss)(model, Target(rewards, discounts, following), jax.random.key(0))
    np.testing.assert_allclose(loss, exact, rtol=1e-3)


def test_both_estimators_agree_when_samples_are_many():
    model, following = mixture(4, (2,)), mixture(5, (4, 2))
    target = Target(jnp.zeros(2), jnp.full(2, 0.9), following)
    sampled = MixtureOfGaussians(components=3, estimator="sampled", num_samples=20_000)
    quadrature = MixtureOfGaussians(components=3, estimator="quadrature", num_nodes=32)
    losses = [jax.jit(c.loss)(model, target, jax.random.key(1)) for c in (sampled, quadrature)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)


@pytest.mark.parametrize("estimator", ["sampled", "quadrature"])
def test_target_points_are_counted_and_weighted(estimator):
    critic = MixtureOfGaussians(components=3, estimator=estimator, num_samples=6, num_nodes=4)
    target = Target(jnp.zeros(5), jnp.ones(5), mixture(6, (7, 5)))
    points, weights = jax.jit(critic.target_points)(target, jax.random.key(0))
    count = 7 * 6 if estimator == "sampled" else 7 * 3 * 4
    assert points.shape == weights.shape == (count, 5)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=1e-5)


def test_quadrature_keeps_the_target_mean_and_variance():
    """Two nodes on each component are enough for both moments."""
    critic = MixtureOfGaussians(components=3, estimator="quadrature", num_nodes=2)
    law = mixture(7, (5,))
    target = Target(jnp.zeros(5), jnp.ones(5), jax.tree.map(lambda leaf: leaf[None], law))
    points, weights = jax.jit(critic.target_points)(target, jax.random.key(0))
    mean = jnp.sum(weights * points, axis=0)
    variance = jnp.sum(weights * jnp.square(points - mean[None]), axis=0)
    np.testing.assert_allclose(mean, critic.mean(law), atol=2e-5)
    np.testing.assert_allclose(variance, critic.variance(law), rtol=2e-5)


def test_exact_gradient_is_the_finite_difference_of_the_cross_entropy():
    """The formula that the estimators are held against, itself checked in float64."""
    start = np.concatenate([np.asarray(leaf, np.float64) for leaf in facts.MODEL])
    weights, means, scales = in_float64(facts.NEXT)
    y = np.linspace(-12, 15, 20_001)[:, None]
    law = scipy.stats.norm.pdf(y, 0.7 + 0.9 * means, 0.9 * scales) @ weights
    law /= law.sum()

    def cross_entropy(parameters):
        logits, means, scales = parameters.reshape(3, 3)
        model = np.exp(logits) / np.exp(logits).sum()
        return -law @ np.log(scipy.stats.norm.pdf(y, means, scales) @ model)

    steps = 1e-5 * np.eye(9)
    slopes = [(cross_entropy(start + s) - cross_entropy(start - s)) / 2e-5 for s in steps]
    np.testing.assert_allclose(facts.exact_mixture_gradient(), slopes, atol=1e-7)


def test_sampled_gradient_is_unbiased():
    """Nine parameters: 5 standard errors are passed once in 200,000 tests."""
    for seed in range(2):
        found = facts.sampled_gradient(jax.random.key(seed), repeats=8192)
        assert found["z"] < 5
        assert found["relative_error"] < 0.1


def test_a_wrong_gradient_would_be_seen(monkeypatch):
    """The test above can fail: one part of nine, off by a tenth, is found out."""
    exact = facts.exact_mixture_gradient()
    exact[np.argmax(np.abs(exact))] *= 0.9
    monkeypatch.setattr(facts, "exact_mixture_gradient", lambda: exact)
    assert facts.sampled_gradient(jax.random.key(0), repeats=8192)["z"] > 5


def test_quadrature_gradient_converges():
    errors = [facts.quadrature_gradient(nodes)["relative_error"] for nodes in (2, 8, 32)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 5e-3
    assert errors[2] < 1e-4


def test_single_component_gradient_is_the_td_error_over_the_variance():
    for seed in range(3):
        assert facts.single_component(seed)["relative_error"] < 1e-5


def test_likelihood_gradients_of_samples_are_unbiased_and_those_of_w1_are_not():
    for truth, model, samples in [(0.6, 0.5, 1), (0.6, 0.5, 7), (0.2, 0.3, 4)]:
        bias = facts.bernoulli_bias(truth, model, samples)
        assert abs(bias["likelihood"]) < 1e-12
        assert abs(bias["wasserstein"]) > 0.1


@pytest.mark.parametrize("discount", [0.5, 0.9, 1.0])
def test_a_backup_shrinks_w1_by_the_discount_and_the_divergence_not_at_all(discount):
    left = facts.backed_up_distances(reward=-3.0, discount=discount)
    assert left["w1"] == pytest.approx(discount, rel=1e-9)
    assert left["kl"] == pytest.approx(1.0, rel=1e-9)
    law, rng = facts._divergence_and_w1(0.0, 1.0), np.random.default_rng(0)
    draws = []
    for one in (facts.NEXT, facts.MODEL):
        weights = np.exp(np.float64(one.logits)) / np.exp(np.float64(one.logits)).sum()
        which = rng.choice(3, size=200_000, p=weights)
        draws.append(rng.normal(one.means[which], one.scales[which]))
    assert law["w1"] == pytest.approx(scipy.stats.wasserstein_distance(*draws), rel=0.02)


def test_the_optimum_scales_with_the_reward():
    for factor in (0.01, 3.0, 100.0):
        assert facts.scale_equivariance(factor)["error"] < 2e-5
