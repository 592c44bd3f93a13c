"""Laws against scipy, and distances between laws against closed forms and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from matchbook.critics import Categorical, MixtureOfGaussians, Quantile, laws

NORMAL = scipy.stats.norm
LAWS = {
    "gaussian": (laws.gaussian(3.0, 2.0), NORMAL(3.0, 2.0)),
    "exponential": (laws.exponential(10.0), scipy.stats.expon(scale=10.0)),
    "uniform": (laws.uniform(0.0, 2.0), scipy.stats.uniform(0.0, 2.0)),
}


def edges_of(*all_laws):
    return jnp.asarray(np.concatenate([law.knots() for law in all_laws]), jnp.float32)


def between(one, other):
    return jax.jit(lambda knots: laws.distances(one.cdf, other.cdf, knots))(edges_of(one, other))


@pytest.mark.parametrize("name", LAWS)
def test_law_is_scipys(name):
    law, truth = LAWS[name]
    np.testing.assert_allclose([law.mean, law.std], [truth.mean(), truth.std()])
    levels = np.array([1e-4, 0.1, 0.5, 0.93, 0.9999])
    np.testing.assert_allclose(law.quantile(levels), truth.ppf(levels), rtol=1e-12)
    values = np.linspace(law.mean - 3 * law.std, law.mean + 3 * law.std, 41)
    ours = law.cdf(jnp.asarray(values, jnp.float32))
    np.testing.assert_allclose(ours, truth.cdf(values), atol=1e-6)


def test_two_gaussians_by_integration():
    law = laws.two_gaussians((-9.0, 9.0), 1.03)
    values = np.linspace(-20, 20, 100_001)
    density = 0.5 * (NORMAL.pdf(values, -9, 1.03) + NORMAL.pdf(values, 9, 1.03))
    step = values[1] - values[0]
    mean = np.sum(density * values) * step
    np.testing.assert_allclose(law.mean, mean, atol=1e-9)
    np.testing.assert_allclose(law.std, np.sqrt(np.sum(density * (values - mean) ** 2) * step))
    levels = np.array([1e-5, 0.2, 0.4999, 0.7, 0.99])
    at = law.quantile(levels)
    truth = 0.5 * (NORMAL.cdf(at, -9, 1.03) + NORMAL.cdf(at, 9, 1.03))
    np.testing.assert_allclose(truth, levels, rtol=1e-10)
    np.testing.assert_allclose(law.cdf(jnp.asarray(at, jnp.float32)), levels, atol=2e-6)


def test_two_points():
    law = laws.two_points(0.0, 20.0, 0.05)
    np.testing.assert_allclose([law.mean, law.std], [1.0, np.sqrt(19.0)])
    np.testing.assert_allclose(law.cdf(jnp.asarray([-0.1, 0.0, 19.9, 20.0])), [0, 0.95, 0.95, 1])
    np.testing.assert_array_equal(law.quantile(np.array([0.01, 0.949, 0.951])), [0, 0, 20])


@pytest.mark.parametrize("name", LAWS)
def test_samples_follow_the_law(name):
    law, truth = LAWS[name]
    draws = law.sample(np.random.default_rng(0), 20_000)
    assert scipy.stats.kstest(draws, truth.cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", LAWS)
def test_the_grid_holds_nearly_all(name):
    law, truth = LAWS[name]
    low, *_, high = law.grid()
    assert truth.cdf(high) - truth.cdf(low) > 0.996


def test_distance_between_shifted_gaussians():
    """W1 is the shift; sup |F - G| is 2 Phi(shift / 2) - 1; also at returns of 10,000."""
    for mean, std, shift in [(0.0, 1.0, 0.5), (10_000.0, 700.0, 350.0)]:
        found = between(laws.gaussian(mean, std), laws.gaussian(mean + shift, std))
        np.testing.assert_allclose(found.wasserstein, shift, rtol=5e-4)
        expected = 2 * NORMAL.cdf(shift / std / 2) - 1
        np.testing.assert_allclose(found.kolmogorov, expected, atol=2e-3)


def test_distance_between_scaled_gaussians():
    """W1 is |s - t| sqrt(2 / pi); the CRPS gap is E|X - Y| - E|X - X'| / 2 - E|Y - Y'| / 2."""
    one, other = laws.gaussian(0.0, 1.0), laws.gaussian(0.0, 3.0)
    found = between(one, other)
    np.testing.assert_allclose(found.wasserstein, 2 * np.sqrt(2 / np.pi), rtol=1e-3)
    expected = (np.sqrt(10) - np.sqrt(2) * (1 + 3) / 2) * np.sqrt(2 / np.pi)
    np.testing.assert_allclose(found.crps, expected, rtol=2e-3)


@pytest.mark.parametrize("outcome", [-1.7, 0.0, 2.5])
def test_crps_of_a_normal_forecast(outcome):
    """Against one outcome: Gneiting and Raftery (2007), with scipy's normal."""
    forecast = laws.gaussian(0.3, 1.4)
    point = laws.two_points(outcome, outcome + 1.0, 0.0)
    z = (outcome - 0.3) / 1.4
    expected = 1.4 * (z * (2 * NORMAL.cdf(z) - 1) + 2 * NORMAL.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(between(forecast, point).crps, expected, rtol=1e-3)


def test_a_law_is_at_no_distance_from_itself():
    for law, _ in LAWS.values():
        np.testing.assert_allclose(between(law, law), 0.0, atol=1e-6)


@pytest.mark.parametrize(
    "critic",
    [
        MixtureOfGaussians(components=3, init_scale=0.01),
        Categorical(num_atoms=7, v_min=-4.0, v_max=5.0),
        Quantile(num_quantiles=6),
    ],
    ids=lambda critic: type(critic).__name__,
)
def test_critics_against_brute_force(critic):
    """Spikes and steps, against a law of another size: a float64 sum over 2 million slices."""
    outputs = np.random.default_rng(1).normal(size=(2, critic.num_outputs))
    model = critic.distribution(jnp.asarray(2 * outputs, jnp.float32))
    law, truth = laws.gaussian(0.5, 1.5), NORMAL(0.5, 1.5)
    knots = jnp.broadcast_to(edges_of(law)[:, None], (len(law.knots()), 2))
    knots = jnp.concatenate([critic.knots(model), knots])
    found = laws.distances(lambda values: critic.cdf(model, values), law.cdf, knots)
    grid = np.linspace(-12, 12, 2_000_001)
    for row in range(2):
        draws = _quantiles(critic, jax.tree.map(lambda leaf, row=row: leaf[row], model))
        gaps = draws(grid) - truth.cdf(grid)
        step = grid[1] - grid[0]
        np.testing.assert_allclose(found.wasserstein[row], np.abs(gaps).sum() * step, rtol=2e-3)
        np.testing.assert_allclose(found.crps[row], (gaps**2).sum() * step, rtol=2e-3)
        np.testing.assert_allclose(found.kolmogorov[row], np.abs(gaps).max(), atol=5e-3)


def _quantiles(critic, model):
    """The cdf of one distribution, by NumPy alone."""
    if isinstance(critic, MixtureOfGaussians):
        logits, means, scales = (np.asarray(leaf, np.float64) for leaf in model)
        weights = np.exp(logits) / np.exp(logits).sum()
        return lambda z: sum(
            w * NORMAL.cdf(z, m, s) for w, m, s in zip(weights, means, scales, strict=True)
        )
    if isinstance(critic, Categorical):
        places = np.linspace(critic.v_min, critic.v_max, critic.num_atoms)
        masses = np.exp(np.asarray(model.logits, np.float64))
    else:
        places = np.sort(np.asarray(model.values, np.float64))
        masses = np.ones(len(places))
    steps = np.concatenate([[0], np.cumsum(masses) / masses.sum()])
    return lambda z: steps[np.searchsorted(places, z, side="right")]
