"""The formulas against root finding, dynamic programming and simulation."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from matchbook.control.closed_forms import LinearQuadratic, max_mean_step, quadratic_e_step

PROBLEMS = [
    LinearQuadratic(a=1.0, b=0.5, q=1.0, r=0.1, noise=0.3, discount=0.95),
    LinearQuadratic(a=0.7, b=-1.2, q=0.2, r=2.0, noise=0.0, discount=0.99),
    LinearQuadratic(a=1.3, b=1.0, q=0.0001, r=1.0, noise=1.0, discount=0.9),
]


def test_e_step_golden():
    found = quadratic_e_step(2.0, 1.0, 0.1)
    golden = (3.786834218, 0.4178126731, 0.7910936635, 0.1)
    np.testing.assert_allclose(found, golden, rtol=2e-10)


@pytest.mark.parametrize("case", [(2.0, 1.0, 0.1), (-1.0, 0.0, 0.5), (3.0, 4.0, 0.8)])
def test_e_step_is_the_best_gaussian_within_its_kl(case):
    """Maximise E Q over Gaussians at most epsilon away, by a general optimiser."""
    slope, curvature, epsilon = case

    def kl(x):
        return 0.5 * (np.exp(2 * x[1]) + x[0] ** 2 - 1) - x[1]

    def loss(x):
        return -(slope * x[0] - curvature * (x[0] ** 2 + np.exp(2 * x[1])) / 2)

    limit = {"type": "ineq", "fun": lambda x: epsilon - kl(x)}
    best = minimize(loss, [0.1, -0.1], constraints=limit, method="SLSQP", tol=1e-12).x
    found = quadratic_e_step(slope, curvature, epsilon)
    np.testing.assert_allclose(found.mean, best[0], atol=1e-4)
    np.testing.assert_allclose(found.variance, np.exp(2 * best[1]), atol=1e-4)
    np.testing.assert_allclose(found.kl, epsilon, rtol=1e-9)


def test_mean_steps():
    np.testing.assert_allclose(max_mean_step(0.01, 0.5), 0.0707106781, rtol=1e-9)
    np.testing.assert_allclose(max_mean_step(0.0025, 0.5), 0.0353553391, rtol=1e-8)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_value_iteration_ends_at_the_riccati_root(problem):
    a, b, q, r, _, g = problem
    cost = 0.0
    for _ in range(5000):
        cost = q + g * a**2 * cost - (g * a * b * cost) ** 2 / (r + g * b**2 * cost)
    np.testing.assert_allclose(problem.cost, cost, rtol=1e-9)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("x", [-2.0, 0.0, 0.7])
def test_bellman_equation(problem, x):
    """The best action, found numerically, is -K x, and its value is V(x)."""
    best = minimize_scalar(lambda u: -problem.action_value(x, float(u)), bracket=(-3, 3), tol=1e-12)
    np.testing.assert_allclose(best.x, -problem.gain * x, atol=1e-6)
    np.testing.assert_allclose(-best.fun, problem.value(x), rtol=1e-10, atol=1e-12)


def test_simulated_returns_have_the_value():
    problem, rng = PROBLEMS[0], np.random.default_rng(0)
    x, total = np.full(20_000, 1.5), np.zeros(20_000)
    for step in range(300):
        u = -problem.gain * x
        total -= problem.discount**step * (problem.q * x**2 + problem.r * u**2)
        x = problem.a * x + problem.b * u + problem.noise * rng.normal(size=x.shape)
    error = 4 * total.std() / np.sqrt(20_000)
    np.testing.assert_allclose(total.mean(), problem.value(1.5), atol=error)
