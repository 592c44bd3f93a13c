"""The cross-entropy to weighted points against its definition, and its gradient by autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.critics import Mixture, MixtureOfGaussians
from matchbook.critics.cross_entropy import LANES, cross_entropy


def drawn(points, batch, components, spread=1.0, seed=0):
    random = np.random.default_rng(seed)
    logits, means, scales = random.normal(size=(3, components, *batch))
    law = logits, 3 * means, np.exp(scales)
    y, weights = (
        spread * random.normal(size=(points, *batch)),
        random.uniform(size=(points, *batch)),
    )
    return [jnp.asarray(x, jnp.float32) for x in (*law, y, weights)]


def by_definition(logits, means, scales, points, weights):
    """Through the density itself, all at once."""
    law = Mixture(*(jnp.moveaxis(leaf, 0, -1) for leaf in (logits, means, scales)))
    return -jnp.sum(weights * MixtureOfGaussians().log_density(law, points), axis=0)


def value_and_gradient(function, arguments):
    """The rows' values, and the gradient of their sum, each row with a weight of its own."""

    def total(law):
        values = function(*law, *arguments[3:])
        shares = jnp.cos(jnp.arange(values.size, dtype=jnp.float32)).reshape(values.shape)
        return jnp.sum(values * shares), values

    return jax.jit(jax.grad(total, has_aux=True))(arguments[:3])


@pytest.mark.parametrize("points", [1, 7, 12, LANES + 6])
@pytest.mark.parametrize("batch", [(), (5,), (3, 2), (LANES + 1,)])
def test_value_and_gradient_are_those_of_the_density(points, batch):
    arguments = drawn(points, batch, components=3)
    found, value = value_and_gradient(cross_entropy, arguments)
    expected, of_definition = value_and_gradient(by_definition, arguments)
    np.testing.assert_allclose(value, of_definition, rtol=2e-5, atol=2e-5)
    for one, other in zip(found, expected):
        size = float(jnp.max(jnp.abs(other)))
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * size)


def test_points_far_from_every_component_have_a_finite_gradient():
    arguments = drawn(6, (4,), components=2, spread=1e4)
    found, value = value_and_gradient(cross_entropy, arguments)
    assert all(np.isfinite(leaf).all() for leaf in (value, *found))


def test_what_weighs_nothing_counts_for_nothing():
    logits, means, scales, points, weights = drawn(8, (3,), components=2)
    some = cross_entropy(logits, means, scales, points[:5], weights[:5])
    silent = weights.at[5:].set(0.0)
    np.testing.assert_allclose(
        cross_entropy(logits, means, scales, points, silent), some, rtol=1e-5
    )


def test_seeds_may_be_mapped_over():
    seeds = [drawn(8, (3,), components=2, seed=seed) for seed in (0, 1)]
    mapped = jax.vmap(cross_entropy)(*(jnp.stack(pair) for pair in zip(*seeds)))
    for row, arguments in zip(mapped, seeds):
        np.testing.assert_allclose(row, cross_entropy(*arguments), rtol=1e-5)
