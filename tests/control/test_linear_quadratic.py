"""The linear-quadratic problem's values of policies, and what is said of a learned one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learners import started

from matchbook.control import DMPO, LinearQuadratic, linear_quadratic
from matchbook.critics import Scalar

PROBLEM = LinearQuadratic(a=0.8, b=0.5, q=1.0, r=0.3, noise=0.2, discount=0.9)


def test_values_of_a_policy_by_simulation():
    """First any action, then `u = -0.6 x` with noise of 0.4: 20,000 episodes."""
    random, x, first = np.random.default_rng(0), np.full(20_000, 0.7), 0.3
    total, u = np.zeros(20_000), np.full(20_000, first)
    for step in range(150):
        total -= PROBLEM.discount**step * (PROBLEM.q * x**2 + PROBLEM.r * u**2)
        x = PROBLEM.a * x + PROBLEM.b * u + PROBLEM.noise * random.standard_normal(20_000)
        u = -0.6 * x + 0.4 * random.standard_normal(20_000)
    exact = PROBLEM.policy_action_value(0.6, 0.4, 0.7, first)
    assert abs(total.mean() - exact) < 5 * total.std() / np.sqrt(20_000)


def test_the_best_policys_value_is_the_optimal_one():
    x, u = np.array([-1.0, 0.3]), np.array([0.2, -0.5])
    ours = PROBLEM.policy_action_value(PROBLEM.gain, 0.0, x, u)
    np.testing.assert_allclose(ours, PROBLEM.action_value(x, u), rtol=1e-12)
    with pytest.raises(ValueError, match="infinite"):
        PROBLEM.policy_action_value(-1.0, 0.0, x, u)


def test_discounted_cost_is_the_formula():
    """From N(0, 1) the best policy costs P + g P noise^2 / (1 - g); no other one costs less."""
    cost = {
        gain: linear_quadratic.discounted_cost(PROBLEM, lambda x, k=gain: -k * x, num=50_000)
        for gain in (0.9 * PROBLEM.gain, PROBLEM.gain, 1.1 * PROBLEM.gain)
    }
    np.testing.assert_allclose(cost[PROBLEM.gain], -PROBLEM.value(1.0), rtol=0.02)
    assert min(cost, key=lambda gain: cost[gain]) == PROBLEM.gain


def test_what_is_said_of_a_policy_that_acts_linearly():
    """A critic that always says 2 and a policy whose mean head is bent to a line near 0."""
    learner = DMPO(
        observation_size=1, action_size=1, critic=Scalar(), policy_sizes=(4,), critic_sizes=(4,)
    )
    state = started(learner)
    critic = jax.tree.map(jnp.zeros_like, state.target.critic)
    critic = critic._replace(head=critic.head._replace(bias=jnp.full(1, 2.0)))
    state = state._replace(target=state.target._replace(critic=critic))
    found = linear_quadratic.learned(learner, state, PROBLEM, 2.5)
    u = linear_quadratic.mean_policy(learner, state, 2.5)(np.array([-1.0, 0.5]))
    law = learner.policy(state.target.policy, jnp.asarray([[-1.0], [0.5]], jnp.float32))
    np.testing.assert_allclose(u, 2.5 * np.clip(law.mean[:, 0], -1, 1), rtol=1e-5)
    assert found["excess"] > 0
    x = linear_quadratic.STATES
    exact = PROBLEM.policy_action_value(
        found["gain"], found["std"], x, linear_quadratic.mean_policy(learner, state, 2.5)(x)
    )
    expected = np.sqrt(np.mean((2 - exact) ** 2) / np.mean(exact**2))
    ours = linear_quadratic.value_error(learner, state, PROBLEM, 2.5)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
