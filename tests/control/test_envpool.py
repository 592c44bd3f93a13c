"""EnvPool against dm-control: layout, ends of episodes, and motion from the same state."""

import numpy as np
import pytest
from dm_control import suite
from scipy.stats import ks_2samp

from matchbook.control import environments
from matchbook.control.environments.interface import flatten

pytest.importorskip("envpool", reason="needs the extra `envpool`")


@pytest.mark.parametrize(
    "task", ["finger-spin", "humanoid-walk", "manipulator-bring_ball", "quadruped-run"]
)
def test_layout_is_dm_controls(task):
    """EnvPool has fields that a task does not have; ours has the task's, in their order."""
    ours, reference = environments.load_environments(task, 3), environments.control_suite(task, 1)
    assert type(ours).__name__ == "EnvPoolSuite"
    assert ours.observation_size == reference.observation_size
    assert ours.action_size == reference.action_size
    first = ours.reset(0)
    np.testing.assert_array_equal(first, ours.reset(0))
    assert not np.array_equal(first, ours.reset(1))


def angles(observation):
    """Positions and velocities of pendulum and cartpole, from what is observed."""
    *cart, cos, sin = observation[: (len(observation) + 1) // 2]
    return [*cart, np.arctan2(sin, cos)], observation[(len(observation) + 1) // 2 :]


@pytest.mark.parametrize(("domain", "task"), [("cartpole", "swingup"), ("pendulum", "swingup")])
def test_motion_is_dm_controls(domain, task):
    """100 steps from the same state, with random actions; two versions of MuJoCo, float32 starts.

    At the time limit both leave the discount at 1, and ours goes on with a fresh episode.
    """
    ours, theirs = environments.load_environments(f"{domain}-{task}", 2), suite.load(domain, task)
    now, rng = ours.reset(0), np.random.default_rng(0)
    theirs.reset()
    positions, velocities = angles(now[1].astype(np.float64))
    with theirs.physics.reset_context():
        theirs.physics.data.qpos[:], theirs.physics.data.qvel[:] = positions, velocities
    for t in range(1000):
        actions = rng.uniform(-1, 1, (2, ours.action_size)).astype(np.float32)
        steps = ours.step(actions)
        assert (steps.discounts == 1).all()
        assert steps.last.all() == steps.last.any() == (t == 999)
        truth = theirs.step(actions[1])
        assert truth.last() == steps.last[1]
        if t < 100:
            np.testing.assert_allclose(
                steps.next_observations[1], flatten(truth.observation), atol=1e-3
            )
            np.testing.assert_allclose(steps.rewards[1], truth.reward, atol=1e-3)
    assert not np.array_equal(steps.observations, steps.next_observations)


@pytest.mark.parametrize("task", ["cartpole-swingup", "reacher-easy", "walker-walk"])
def test_episodes_begin_as_dm_controls_do(task):
    """Each number of a first observation: the same law, by the two-sample test of Kolmogorov and
    Smirnov. Numbers that never vary are equal.
    """
    starts = 300
    ours = environments.load_environments(task, starts).reset(0).astype(np.float64)
    theirs = suite.load(*task.split("-"), task_kwargs={"random": 0})
    theirs = np.stack([flatten(theirs.reset().observation) for _ in range(starts)])
    for one, other in zip(ours.T, theirs.T, strict=True):
        if np.ptp(other) < 1e-6:
            np.testing.assert_allclose(one, other, atol=1e-5)
        else:
            assert ks_2samp(one, other).pvalue > 1e-4


def test_going_back_starts_new_episodes_and_says_so():
    ours = environments.load_environments("cartpole-swingup", 2)
    first = ours.reset(0)
    with pytest.warns(UserWarning, match="EnvPool cannot take its simulators back"):
        now, continued = ours.set_state(ours.get_state())
    assert not continued.any()
    assert not np.array_equal(now, first)
