"""J-BOND's fixed point on a list of answers, and how fast it carries an anchor."""

import numpy as np
import pytest

from matchbook.bond import continuous, jbond, jbond_speed, speed


@pytest.mark.parametrize("beta", [0.3, 0.5, 1.0])
def test_the_fixed_point_is_stationary(beta):
    """Brute force: no small exchange of probability between two answers lowers the objective."""
    rng = np.random.default_rng(0)
    anchor = rng.dirichlet(np.ones(6))
    up_to = np.cumsum(anchor)
    best = np.diff(np.concatenate([[0.0], up_to]) ** 2)
    reward = jbond.expected_reward(up_to)

    def objective(policy):
        forward = np.sum(best * np.log(best / policy))
        return (1 - beta) * forward + beta * np.sum(policy * (np.log(policy / anchor) - reward))

    policy = anchor * np.exp(jbond_speed.log_ratio(anchor, beta))
    assert policy.sum() == pytest.approx(1, abs=1e-12)
    least = objective(policy)
    for i in range(6):
        for j in range(6):
            moved = policy.copy()
            moved[i] += 1e-4
            moved[j] -= 1e-4
            assert objective(moved) >= least - 1e-12


def test_many_answers_give_the_continuous_fixed_point():
    anchor = np.full(4000, 1 / 4000)
    ratio = jbond_speed.log_ratio(anchor)
    numbers = jbond.fixed_point(0.5).numbers
    assert np.sum(anchor * np.exp(ratio) * ratio) == pytest.approx(
        numbers["kl_to_anchor"], abs=1e-3
    )
    u = (np.arange(4000) + 0.5) / 4000
    assert np.sum(anchor * np.exp(ratio) * u) == pytest.approx(numbers["mean_u"], abs=1e-3)


def test_the_penalty_alone_runs_slower_than_best_of_2():
    """0.0183 a step at eta = 0.02, where Best-of-2 would make 0.0197: the reference sheet."""
    kl = jbond_speed.simulate(300, 0.02, 20_000, beta=1)
    assert (kl[300] - kl[200]) / 100 == pytest.approx(0.0183, abs=2e-4)
    law = speed.kl(np.arange(301), 0.02)
    assert (law[300] - law[200]) / 100 == pytest.approx(0.0197, abs=1e-4)
    assert np.all(np.diff(kl) > 0)
    assert kl[0] == pytest.approx(jbond.backward_target()[0].numbers["kl_to_anchor"], abs=1e-3)
    assert continuous.kl_to_reference(2) == pytest.approx(law[0])


def test_it_needs_the_backward_term():
    with pytest.raises(ValueError, match="beta"):
        jbond_speed.log_ratio(np.full(4, 0.25), 0)


def test_effective_samples_invert_the_kl_of_best_of_n():
    ns = np.array([1.01, 1.5, 2, 7.3, 100])
    np.testing.assert_allclose(
        jbond_speed.effective_samples(continuous.kl_to_reference(ns)), ns, rtol=1e-6
    )
    assert jbond_speed.effective_samples(0) == pytest.approx(1)
    with pytest.raises(ValueError, match="negative"):
        jbond_speed.effective_samples(-0.1)


def test_a_lagging_policy_drags_its_anchor_at_the_slope_of_its_distance():
    """By doing it: the policy is set to Best-of-1.4 of the anchor, the anchor's logits averaged."""
    eta, u = 0.05, (np.arange(20_000) + 0.5) / 20_000
    exponent, kl = 0.0, []
    for _ in range(200):
        policy = exponent + 0.4 * (exponent + 1)  # Best-of-m of u^a is u^(m (a + 1) - 1)
        log_density = np.log(policy + 1) + policy * np.log(u)
        kl.append(np.mean(np.exp(log_density) * log_density))
        exponent = (1 - eta) * exponent + eta * policy
    slope = jbond_speed.lagging_slope(continuous.kl_to_reference(1.4), eta)
    assert (kl[-1] - kl[-50]) / 49 == pytest.approx(slope, rel=0.03)
    assert jbond_speed.lagging_slope(continuous.kl_to_reference(2), eta) == pytest.approx(
        np.log1p(eta)
    )
