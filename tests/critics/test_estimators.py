"""The estimators of the mixture's loss: the exact gradient by differences, no bias, less noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from matchbook.critics import MixtureOfGaussians, Target, estimators
from matchbook.critics.mixture import Mixture

SAMPLED = MixtureOfGaussians(estimator="sampled", num_samples=16)
STRATIFIED = MixtureOfGaussians(num_nodes=4)


def cross_entropy(parameters, row, moment, points=40_001):
    """`-E log p` of one row, by the density of its target on one wide grid."""
    logits, means, log_scales = np.split(parameters, 3)
    rewards, discounts, following = moment.target
    weights, next_means, next_scales = (np.asarray(x[:, row], np.float64) for x in following)
    weights = np.exp(weights) / np.exp(weights).sum(-1, keepdims=True) / len(weights)
    centres = float(rewards[row]) + float(discounts[row]) * next_means
    spreads = float(discounts[row]) * next_scales
    y = np.linspace((centres - 9 * spreads).min(), (centres + 9 * spreads).max(), points)
    density = sum(
        w * scipy.stats.norm.pdf(y, c, s)
        for w, c, s in zip(weights.ravel(), centres.ravel(), spreads.ravel())
    )
    log_weights = logits - np.log(np.exp(logits).sum())
    terms = log_weights + scipy.stats.norm.logpdf(y[:, None], means, np.exp(log_scales))
    return -np.sum(density * np.logaddexp.reduce(terms, axis=1)) * (y[1] - y[0])


def test_the_exact_gradient_is_that_of_the_exact_cross_entropy():
    moment = estimators.moment("matched")
    exact = estimators.exact_gradient(moment._replace(**first_rows(moment, 1)))[0]
    logits, means, scales = (np.asarray(leaf[0], np.float64) for leaf in moment.model)
    start = np.concatenate([logits, means, np.log(scales)])
    for i in (1, 7, 13):  # a logit, a mean, a width
        step = 1e-4 * np.eye(15)[i]
        up, down = (cross_entropy(start + side * step, 0, moment) for side in (1, -1))
        np.testing.assert_allclose(exact[i], (up - down) / 2e-4, rtol=1e-3, atol=1e-6)


def first_rows(moment, rows):
    rewards, discounts, following = moment.target
    following = jax.tree.map(lambda leaf: leaf[:, :rows], following)
    model = jax.tree.map(lambda leaf: leaf[:rows], moment.model)
    return {"model": model, "target": Target(rewards[:rows], discounts[:rows], following)}


def test_stratified_points_are_mirrored_and_one_in_each_slice():
    critic = MixtureOfGaussians(components=1, num_nodes=6)
    law = Mixture(*(jnp.full((3, 4, 1), x, jnp.float32) for x in (0.3, 2.0, 0.5)))
    target = Target(jnp.zeros(4), jnp.ones(4), law)
    points, weights = jax.jit(critic.target_points)(target, jax.random.key(0))
    np.testing.assert_allclose(weights, 1 / 18, rtol=1e-5)
    z = (np.asarray(points, np.float64).reshape(6, 3, 4) - 2) / 0.5
    np.testing.assert_allclose(z[:3], -z[3:], atol=1e-5)
    slices = np.sort(np.floor(6 * scipy.stats.norm.cdf(z)), axis=0)
    np.testing.assert_array_equal(slices, np.broadcast_to(np.arange(6)[:, None, None], z.shape))


@pytest.mark.parametrize("name", ["narrow", "matched"])
def test_stratified_gradients_have_no_bias(name):
    """The mean of 200 draws: every parameter of every row within five standard errors."""
    moment = estimators.moment(name)
    keys = jax.random.split(jax.random.key(1), 200)
    drawn = np.stack([estimators.gradient(STRATIFIED, moment, key) for key in keys])
    error = drawn.std(0, ddof=1, dtype=np.float64) / np.sqrt(200)
    gaps = drawn.mean(0, dtype=np.float64) - estimators.exact_gradient(moment)
    assert np.max(np.abs(gaps) / (error + 1e-6)) < 5.0


def test_noise_for_the_number_of_points():
    """Equally many points: stratified has a third of the noise of sampled or less."""
    assert estimators.points(SAMPLED) * 5 == estimators.points(STRATIFIED) * 4
    ours = estimators.errors(STRATIFIED, "narrow", repeats=8)
    theirs = estimators.errors(SAMPLED, "narrow", repeats=8)
    assert ours["noise"] < theirs["noise"] / 3
    assert ours["bias"] < 3 * ours["noise"] / np.sqrt(8)


def test_quadrature_has_no_noise_but_a_bias_where_widths_differ():
    critic = MixtureOfGaussians(estimator="quadrature", num_nodes=5)
    found = estimators.errors(critic, "matched")
    assert found["noise"] == 0
    assert found["bias"] == pytest.approx(found["error"])
    assert found["bias"] > 0.1


def test_an_odd_number_of_pairs_is_refused():
    with pytest.raises(ValueError, match="even"):
        MixtureOfGaussians(num_nodes=5)
