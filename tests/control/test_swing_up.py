"""The pendulum's controller: dm-control's own steps, and values that simulations agree on."""

import itertools

import numpy as np
from dm_control import suite

from matchbook.control import swing_up
from matchbook.control.transitions import Transition


def test_batched_physics_are_the_suites_own_steps():
    rng = np.random.default_rng(0)
    start = np.array([[0.0, 2.5, 1.0], [0.0, 0.05, 0.1]])
    found = swing_up.simulate(start, 6, rng)
    for i, (_, angle, speed) in enumerate(start):
        environment = suite.load("pendulum", "swingup")
        environment.reset()
        with environment.physics.reset_context():
            environment.physics.data.qpos[0], environment.physics.data.qvel[0] = angle, speed
        for step in range(6):
            outcomes = [environment.step(found.actions[step, i]) for _ in range(5)]
            seen = np.concatenate([np.ravel(v) for v in outcomes[-1].observation.values()])
            np.testing.assert_allclose(found.observations[step + 1, i], seen, atol=1e-9)
            paid = np.mean([outcome.reward for outcome in outcomes])
            np.testing.assert_allclose(found.rewards[step, i], paid, atol=1e-12)


def test_the_controller_swings_up_and_sometimes_falls():
    rng = np.random.default_rng(0)
    found = swing_up.simulate(np.tile([0.0, np.pi, 0.0], (32, 1)), 200, rng)
    late = found.rewards[100:].mean(axis=0)
    assert late.mean() > 0.2
    assert late.std() > 0.1


def test_values_obey_the_bellman_equation():
    """Values of the same states from longer simulations differ by what is missing at the end."""
    short, long = (swing_up.judge(48, 32, horizon, seed=3) for horizon in (60, 120))
    np.testing.assert_array_equal(short["observations"], long["observations"])
    gap = long["returns"] - short["returns"]
    noise = np.sqrt(np.mean(short["variances"] + long["variances"]))
    assert abs(gap.mean()) < 20 * 0.95**60 + 4 * noise / np.sqrt(48)


def test_exact_values_have_no_error_and_the_average_value_has_error_one():
    rng = np.random.default_rng(0)
    true, num = rng.normal(size=4000), 4000
    measured = true + 0.5 * rng.normal(size=num)
    values = swing_up.Values(np.zeros((num, 3)), np.zeros((num, 1)), measured, np.full(num, 0.25))
    assert swing_up.value_error(true, values) < 0.15
    assert abs(swing_up.value_error(np.full(num, measured.mean()), values) - 1) < 0.05


def test_noise_has_the_size_it_is_given_and_its_place():
    data = Transition(**swing_up.record(8, 50, 0))
    for kind in ("even", "uneven"):
        added = swing_up.noisy(data, kind, 2.0, 0).rewards - data.rewards
        assert abs(np.sqrt(np.mean(added**2)) - 2) < 0.3
    np.testing.assert_array_equal(added[data.actions[:, 0] <= 0], 0)
    np.testing.assert_array_equal(swing_up.noisy(data, "none", 2.0, 0).rewards, data.rewards)


def test_batches_hold_transitions_and_actions_of_the_controller():
    data = Transition(**swing_up.record(4, 50, 0))
    (batch,) = itertools.islice(swing_up.batches(data, 0, batch_size=16, num_actions=200), 1)
    rows = [
        np.flatnonzero((data.observations == row).all(axis=1))
        for row in batch.transitions.observations
    ]
    assert all(len(found) for found in rows)
    means = swing_up.controller(batch.transitions.next_observations)
    inside = np.abs(means[:, 0]) < 0.1
    np.testing.assert_allclose(batch.next_actions.mean(0)[inside], means[inside], atol=0.15)
    assert np.abs(batch.next_actions).max() <= 1


def test_a_probe_finds_a_value_that_is_linear_in_the_features():
    """Every episode pays 1 - 0.95 a decision times its own number: so its return is the number."""
    rng = np.random.default_rng(0)
    data = Transition(**swing_up.record(40, 200, 0))
    features = np.tile(rng.normal(size=(40, 3)), (200, 1))
    paid = (1 - swing_up.DISCOUNT) * (features @ [1.0, -2.0, 0.5] + 3)
    held_out = rng.normal(size=(5, 3))
    found = swing_up.probe(features, data._replace(rewards=paid), held_out)
    np.testing.assert_allclose(found, held_out @ [1.0, -2.0, 0.5] + 3, rtol=0.05, atol=0.1)
