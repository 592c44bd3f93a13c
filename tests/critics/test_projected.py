"""C51's fixed points on the Gaussian loop: the table, and the operator against other ways to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from matchbook.critics import Atoms, Categorical, Target
from matchbook.critics.categorical import l2_project
from matchbook.critics.projected import fixed_point, midpoint_rewards

TABLE = [  # reward scale, v_max, atoms, mean, std; rewards at 201 midpoints
    (0.01, 150, 51, "1.000", "2.386"),
    (0.01, 150, 501, "1.000", "0.519"),
    (1, 150, 51, "99.983", "15.53"),
    (1, 150, 101, "100.000", "10.97"),
    (1, 150, 501, "100.000", "7.276"),
    (1.4, 150, 51, "132.49", "13.51"),
    (1.4, 150, 501, "137.39", "8.11"),
    (100, 150, 51, "137.23", "35.1"),
    (1, 15000, 51, "100.000", "238.6"),
    (1, 15000, 5001, "100.000", "15.56"),
    (100, 15000, 51, "9998.3", "1552.5"),
]


@pytest.mark.parametrize(("scale", "v_max", "num_atoms", "mean", "std"), TABLE)
def test_table_to_the_digit(scale, v_max, num_atoms, mean, std):
    atoms = np.linspace(-v_max, v_max, num_atoms)
    found = fixed_point(midpoint_rewards(float(scale), float(scale), 201), 0.99, atoms)
    for ours, printed in ((found.mean, mean), (found.std, std)):
        digit = 10.0 ** -len(printed.partition(".")[2])
        assert abs(ours - float(printed)) <= 0.53 * digit  # one entry is 15.5547 here, 15.56 there


def iterate(scale, atoms, rewards, weights, discount, sweeps):
    """Brute force: project every (reward, atom) pair with the critic's own `l2_project`."""
    points = jnp.asarray(np.add.outer(discount * atoms, scale * rewards), jnp.float32)
    shares = l2_project(
        points[..., None], jnp.ones((*points.shape, 1)), jnp.asarray(atoms, jnp.float32)
    )
    operator = np.einsum("srt,r->ts", np.asarray(shares, np.float64), weights)
    law = np.full(len(atoms), 1 / len(atoms))
    for _ in range(sweeps):
        law = operator @ law
    return law


@pytest.mark.parametrize("scale", [0.3, 2.0, 30.0])
def test_discrete_rewards_by_brute_force(scale):
    atoms, rewards = np.linspace(-5, 11, 17), midpoint_rewards(1.0, 1.0, 9)
    expected = iterate(scale, atoms, rewards, np.full(9, 1 / 9), 0.8, 400)
    found = fixed_point(scale * rewards, 0.8, atoms)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [0.02, 0.3, 2.0, 30.0])
def test_gaussian_rewards_by_a_fine_grid(scale):
    """Narrow against the bins, wide, and clipped at the end."""
    atoms, grid = np.linspace(-5, 11, 17), np.linspace(-5, 7, 9601)
    weights = norm.pdf(grid, 1, 1) / norm.pdf(grid, 1, 1).sum()
    expected = iterate(scale, atoms, grid, weights, 0.8, 400)
    found = fixed_point(np.array([scale]), 0.8, atoms, reward_std=scale)
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-5)
    np.testing.assert_allclose(found.probabilities.sum(), 1.0, rtol=1e-12)


def test_no_gradient_is_left_at_the_fixed_point():
    """The loss of C51 itself, averaged over rewards, is stationary where the operator is."""
    critic = Categorical(num_atoms=17, v_min=-5.0, v_max=11.0)
    rewards = midpoint_rewards(1.0, 1.0, 32)
    found = fixed_point(rewards, 0.8, np.linspace(-5, 11, 17))
    logits = jnp.asarray(np.log(found.probabilities), jnp.float32)
    following = Atoms(jnp.broadcast_to(logits, (1, 32, 17)))
    target = Target(jnp.asarray(rewards, jnp.float32), jnp.full(32, 0.8), following)

    key = jax.random.key(0)

    def loss(logits):
        return jnp.mean(critic.loss(Atoms(jnp.broadcast_to(logits, (32, 17))), target, key))

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(logits), 0.0, atol=1e-6)


def test_scaling_rewards_is_scaling_the_support():
    one = fixed_point(np.array([1.0]), 0.99, np.linspace(-150, 150, 51), reward_std=1.0)
    other = fixed_point(np.array([100.0]), 0.99, np.linspace(-15000, 15000, 51), reward_std=100.0)
    np.testing.assert_allclose([other.mean, other.std], [100 * one.mean, 100 * one.std], rtol=1e-9)


def test_a_discount_of_1_is_refused():
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\), got 1.0"):
        fixed_point(np.array([0.0]), 1.0, np.linspace(-1, 1, 3))
