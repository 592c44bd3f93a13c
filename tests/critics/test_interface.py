"""What holds for all four critics: samples, cdf, mean and variance agree; rows do not mix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.critics import (
    Categorical,
    Critic,
    MixtureOfGaussians,
    Quantile,
    Scalar,
    Target,
    apply_head,
    init_head,
)

SAMPLED = MixtureOfGaussians(components=3, estimator="sampled", init_scale=0.5, num_samples=8)
QUADRATURE = MixtureOfGaussians(components=2, init_scale=2.0, estimator="quadrature", num_nodes=5)
CATEGORICAL = Categorical(num_atoms=9, v_min=-3.0, v_max=5.0)
QUANTILE = Quantile(num_quantiles=7)
SCALAR = Scalar()
KEY = jax.random.key(0)


def for_each(*critics):
    return pytest.mark.parametrize("critic", critics, ids=lambda c: type(c).__name__)


each = for_each(SAMPLED, QUADRATURE, CATEGORICAL, QUANTILE, SCALAR)


@functools.cache
def compiled(critic, method):
    """Compiled once for all tests."""
    return jax.jit(getattr(critic, method), static_argnums=2 if method == "sample" else None)


def mean(critic, law):
    return compiled(critic, "mean")(law)


def loss(critic, model, target):
    return compiled(critic, "loss")(model, target, KEY)


def distributions(critic, seed, shape):
    """Spread-out distributions: far from how a head starts."""
    outputs = np.random.default_rng(seed).normal(size=(*shape, critic.num_outputs))
    return critic.distribution(jnp.asarray(outputs, jnp.float32))


@each
def test_is_a_critic(critic):
    assert isinstance(critic, Critic)


@each
def test_samples_have_the_mean_variance_and_cdf(critic):
    law = distributions(critic, 0, (4,))
    draws = np.asarray(compiled(critic, "sample")(law, KEY, 40_000), np.float64)
    assert draws.shape == (40_000, 4)
    std = np.sqrt(np.asarray(compiled(critic, "variance")(law), np.float64))
    np.testing.assert_allclose(draws.mean(0), mean(critic, law), atol=5 * std.max() / 200 + 1e-6)
    np.testing.assert_allclose(draws.std(0), std, rtol=0.03, atol=1e-6)
    points = jnp.asarray(np.quantile(draws, [0.1, 0.35, 0.6, 0.9], axis=0), jnp.float32)
    counted = (draws[:, None] <= np.asarray(points)[None]).mean(0)
    np.testing.assert_allclose(compiled(critic, "cdf")(law, points), counted, atol=5 * 0.5 / 200)


@each
def test_cdf_rises_from_0_to_1_between_the_knots(critic):
    law = distributions(critic, 2, (3, 2))
    knots = np.asarray(critic.knots(law))
    assert knots.shape[1:] == (3, 2)
    below = knots.min(axis=0, keepdims=True) - np.float32(1e-3)
    cdf = compiled(critic, "cdf")(law, jnp.asarray(np.concatenate([below, np.sort(knots, axis=0)])))
    np.testing.assert_allclose(cdf[0], 0.0, atol=1e-6)
    np.testing.assert_allclose(cdf[-1], 1.0, atol=1e-6)
    assert np.all(np.diff(cdf, axis=0) >= -1e-6)


@for_each(QUADRATURE, CATEGORICAL, QUANTILE, SCALAR)
def test_rows_do_not_mix(critic):
    """The losses of a batch are those of its rows, one by one (where nothing is drawn)."""
    model, following = distributions(critic, 3, (2, 3)), distributions(critic, 4, (5, 2, 3))
    rewards, discounts = jnp.arange(6.0).reshape(2, 3) / 3, jnp.full((2, 3), 0.9)
    whole = loss(critic, model, Target(rewards, discounts, following))
    assert whole.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        one = jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j][None], model)
        then = jax.tree.map(lambda leaf, i=i, j=j: leaf[:, i, j][:, None], following)
        alone = loss(critic, one, Target(rewards[i, j][None], discounts[i, j][None], then))
        np.testing.assert_allclose(alone[0], whole[i, j], rtol=2e-5)


@for_each(QUADRATURE, CATEGORICAL, QUANTILE)
def test_a_target_over_actions_is_a_mixture_of_laws(critic):
    """These losses are linear in the target's law."""
    model, following = distributions(critic, 7, (4,)), distributions(critic, 8, (3, 4))

    def against(actions):
        chosen = jax.tree.map(lambda leaf: leaf[actions], following)
        return loss(critic, model, Target(jnp.ones(4), jnp.full(4, 0.8), chosen))

    apart = sum(against(slice(i, i + 1)) for i in range(3)) / 3
    np.testing.assert_allclose(against(slice(None)), apart, rtol=2e-5)


def test_the_scalar_target_is_the_mean_over_actions():
    model, following = distributions(SCALAR, 7, (4,)), distributions(SCALAR, 8, (3, 4))
    target = Target(jnp.ones(4), jnp.full(4, 0.8), following)
    expected = 0.5 * (1 + 0.8 * np.mean(following.value, axis=0) - np.asarray(model.value)) ** 2
    np.testing.assert_allclose(loss(SCALAR, model, target), expected, rtol=2e-5)


@each
def test_no_gradient_reaches_the_target(critic):
    model = distributions(critic, 9, (4,))

    def of_target(outputs, rewards, discounts):
        target = Target(rewards, discounts, critic.distribution(outputs))
        return jnp.sum(critic.loss(model, target, KEY))

    outputs = jnp.ones((2, 4, critic.num_outputs))
    gradients = jax.jit(jax.grad(of_target, argnums=(0, 1, 2)))(outputs, jnp.ones(4), jnp.ones(4))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)


@each
def test_after_the_end_the_next_state_does_not_matter(critic):
    model = distributions(critic, 10, (4,))
    targets = [
        Target(jnp.ones(4), jnp.zeros(4), distributions(critic, seed, (2, 4))) for seed in (11, 12)
    ]
    losses = [loss(critic, model, target) for target in targets]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@each
def test_descending_the_loss_finds_the_mean(critic):
    """The target is a reward of 1.5 and the end; every step goes the same way down."""
    target = Target(jnp.full(1, 1.5), jnp.zeros(1), distributions(critic, 13, (1, 1)))

    def of_outputs(outputs):
        return jnp.sum(critic.loss(critic.distribution(outputs), target, KEY))

    def step(i, outputs):
        return outputs - 0.05 * (1 - i / 500) * jnp.sign(jax.grad(of_outputs)(outputs))

    descend = jax.jit(lambda outputs: jax.lax.fori_loop(0, 500, step, outputs))
    after = critic.distribution(descend(0.1 * jnp.ones((1, critic.num_outputs))))
    np.testing.assert_allclose(mean(critic, after), 1.5, atol=0.02)


@each
def test_the_head_is_linear_and_its_bias_starts_at_zero(critic):
    head = init_head(critic, KEY, 64)
    assert head.kernel.shape == (64, critic.num_outputs)
    np.testing.assert_array_equal(head.bias, 0.0)
    head = head._replace(bias=head.bias + 0.5)
    features = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    law = apply_head(critic, head, jnp.asarray(features))
    outputs = features.astype(np.float64) @ np.asarray(head.kernel, np.float64) + 0.5
    expected = critic.distribution(jnp.asarray(outputs, jnp.float32))
    for ours, theirs in zip(law, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixtureOfGaussians(components=0), "components must be above 0, got 0"),
        (lambda: MixtureOfGaussians(init_scale=-1.0), "init_scale must be above 0"),
        (lambda: MixtureOfGaussians(num_samples=0), "num_samples must be above 0"),
        (lambda: Categorical(num_atoms=1), "num_atoms must be 2 or more"),
        (lambda: Categorical(v_min=3.0, v_max=3.0), "support_width must be above 0"),
        (lambda: Quantile(num_quantiles=0), "num_quantiles must be above 0"),
        (lambda: Quantile(huber=-0.5), "huber must be 0 or above"),
    ],
)
def test_refused_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
