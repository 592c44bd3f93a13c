"""Environments against dm-control's own loop, toy tasks with known streams, and closed forms."""

import importlib.util
import warnings
from types import SimpleNamespace

import dm_env
import numpy as np
import pytest
from dm_control import suite
from dm_env import specs

from matchbook.control import environments
from matchbook.control.closed_forms import LinearQuadratic
from matchbook.control.environments import adapters
from matchbook.control.environments.envpool_suite import envpool_name
from matchbook.control.environments.interface import ActionScale, check_finite, flatten

TASKS = [
    "cartpole-swingup",
    "reacher-easy",  # its target is written into the model
    "ball_in_cup-catch",
    "finger-turn_hard",
    "point_mass-hard",  # its actuators are drawn anew for every episode
    "fish-swim",
]


def short(task, num, time_limit=0.3):
    domain, name = task.split("-")

    def make(seed):
        kwargs = {"task_kwargs": {"random": seed, "time_limit": time_limit}}
        return suite.load(domain, name, **kwargs)

    return environments.from_dm_env(make, num)


def episode_seed(seed, environment, episode):
    return int(np.random.SeedSequence((seed, environment, episode)).generate_state(1)[0])


def actions(seed, length, num, size):
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (length, num, size)).astype(np.float32)


@pytest.mark.parametrize("task", ["cartpole-swingup", "reacher-easy"])
def test_together_is_dm_controls_own_loop(task):
    """Over the ends of episodes; a time limit leaves the discount at 1."""
    ours = short(task, 2)
    domain, name = task.split("-")
    now, played = ours.reset(7), actions(0, 40, 2, ours.action_size)
    steps = [ours.step(a) for a in played]
    for i in range(2):
        episode = 0
        seed = {"random": episode_seed(7, i, 0), "time_limit": 0.3}
        theirs = suite.load(domain, name, task_kwargs=seed)
        np.testing.assert_array_equal(now[i], flatten(theirs.reset().observation))
        for a, step in zip(played, steps, strict=True):
            truth = theirs.step(np.clip(a[i], -1, 1).astype(np.float64))
            observation = flatten(truth.observation)
            np.testing.assert_allclose(step.next_observations[i], observation, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(step.rewards[i], truth.reward, rtol=1e-5, atol=1e-6)
            assert step.discounts[i] == 1.0
            assert step.last[i] == truth.last()
            if truth.last():
                episode += 1
                seed = {"random": episode_seed(7, i, episode), "time_limit": 0.3}
                theirs = suite.load(domain, name, task_kwargs=seed)
                observation = flatten(theirs.reset().observation)
                np.testing.assert_array_equal(step.observations[i], observation)
        assert episode >= 1


@pytest.mark.parametrize("task", TASKS)
def test_going_back_is_exact(task):
    """From the middle of a second episode, into other environments, bit for bit."""
    one, other = short(task, 2), short(task, 2)
    one.reset(3)
    played = actions(1, 60, 2, one.action_size)
    for a in played[:25]:
        one.step(a)
    state = one.get_state()
    other.reset(99)
    other.step(played[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        now, continued = other.set_state(state)
    assert continued.all()
    np.testing.assert_array_equal(now, state["observations"])
    for a in played[25:]:
        for x, y in zip(one.step(a), other.step(a), strict=True):
            np.testing.assert_array_equal(x, y)
    assert other.get_state()["episodes"] == one.get_state()["episodes"]


def test_equal_seeds_are_equal_and_environments_are_not():
    one = short("cartpole-swingup", 2)
    first = one.reset(3)
    assert not np.array_equal(first[0], first[1])
    one.step(np.ones((2, 1), np.float32))
    np.testing.assert_array_equal(one.reset(3), first)
    assert not np.array_equal(one.reset(4), first)


class Walk(dm_env.Environment):
    """Position is the sum of actions; ends itself beyond 3. Cannot be seeded but by its maker."""

    def __init__(self, seed, drift=0.0):
        self.random, self.drift = np.random.default_rng(seed), drift

    def reset(self):
        self.x = self.random.uniform()
        return dm_env.restart({"x": np.float64(self.x), "two": np.ones((1, 2))})

    def step(self, action):
        self.x += action[0] + self.drift
        seen = {"x": np.float64(self.x), "two": np.ones((1, 2))}
        return (dm_env.termination if abs(self.x) > 3 else dm_env.transition)(self.x, seen)

    def action_spec(self):
        return specs.BoundedArray((1,), np.float64, minimum=-2.0, maximum=4.0)

    def observation_spec(self):
        return {}


def test_a_users_dm_env():
    """Scaled actions, flat observations, discount 0 where the task ends the episode."""
    ours = environments.from_dm_env(Walk, 2)
    x = ours.reset(0)[:, 0].astype(np.float64)
    assert (ours.num, ours.observation_size, ours.action_size) == (2, 3, 1)
    for a in actions(2, 30, 2, 1):
        steps = ours.step(a)
        x = x + -2 + 3 * (np.clip(a[:, 0], -1, 1) + 1)
        np.testing.assert_allclose(steps.next_observations, [[v, 1, 1] for v in x], rtol=1e-5)
        np.testing.assert_allclose(steps.rewards, x, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(steps.last, np.abs(x) > 3)
        np.testing.assert_array_equal(steps.discounts, (np.abs(x) <= 3).astype(float))
        assert np.all(steps.observations[steps.last, 0] < 1)
        x = steps.observations[:, 0].astype(np.float64)
    _, continued = environments.from_dm_env(Walk, 2).set_state(ours.get_state())
    assert continued.all()


def test_an_environment_that_does_not_repeat_itself_says_so():
    made = []

    def unruly(seed):
        made.append(seed)
        return Walk(seed, drift=1e-3 * len(made))

    ours = environments.from_dm_env(unruly, 2)
    ours.reset(0)
    ours.step(np.full((2, 1), -0.3, np.float32))
    state = ours.get_state()
    with pytest.warns(UserWarning, match=r"\[0, 1\] do not repeat"):
        now, continued = ours.set_state(state)
    assert not continued.any()
    assert np.all(now[:, 0] < 1)


class Gym:
    """The walk again, with Gymnasium's reset and step: ends itself, or is cut after 5 steps."""

    action_space = SimpleNamespace(low=np.float32([-2]), high=np.float32([4]), dtype=np.float32)

    def reset(self, *, seed):
        self.x, self.time = np.random.default_rng(seed).uniform(), 0
        return {"x": np.float32([self.x])}, {}

    def step(self, action):
        self.x, self.time = self.x + action[0], self.time + 1
        return {"x": np.float32([self.x])}, self.x, abs(self.x) > 3, self.time == 5, {}


def test_a_users_gymnasium():
    ours, kinds = environments.from_gymnasium(Gym, 3), set()
    ours.reset(0)
    for a in actions(4, 40, 3, 1) / 2 - 1 / 3:
        steps = ours.step(a)
        ended = np.abs(steps.next_observations[:, 0]) > 3
        np.testing.assert_array_equal(steps.discounts, (~ended).astype(float))
        kinds |= {(bool(e), bool(over)) for e, over in zip(ended, steps.last, strict=True)}
    assert kinds == {(False, False), (True, True), (False, True)}
    _, continued = environments.from_gymnasium(Gym, 3).set_state(ours.get_state())
    assert continued.all()


def test_what_is_no_factory_is_refused():
    """Type checks of the tests speak first in public functions."""
    for make, given in (environments.from_gymnasium, Gym()), (environments.from_dm_env, "walker"):
        with pytest.raises(TypeError, match="factory"):
            make(given, 2)
    with pytest.raises(TypeError, match=r"such as lambda: make\(\); got str"):
        adapters._check_factory("walker", "lambda: make()")


def test_what_a_users_environment_returns_wrongly_is_told():
    class Old(Gym):
        def step(self, action):
            return super().step(action)[:4]

    class Speaking(Gym):
        def reset(self, *, seed):
            return {"x": np.zeros(1), "mission": "go left"}, {}

    with pytest.raises(ValueError, match=r"terminated, truncated and info.*got 4 values"):
        environments.from_gymnasium(Old, 1).step(np.zeros((1, 1), np.float32))
    with pytest.raises(ValueError, match="made of numbers, got 'go left'"):
        environments.from_gymnasium(Speaking, 1)


@pytest.mark.skipif(not importlib.util.find_spec("gymnasium"), reason="gymnasium is not installed")
def test_gymnasium_itself():
    import gymnasium

    ours = environments.from_gymnasium(lambda: gymnasium.make("Pendulum-v1"), 2)
    now = ours.reset(0)
    theirs = gymnasium.make("Pendulum-v1")
    np.testing.assert_array_equal(now[1], theirs.reset(seed=episode_seed(0, 1, 0))[0])
    for a in actions(5, 200, 2, 1):
        steps = ours.step(a)
        following, reward, _, cut, _ = theirs.step(2 * np.clip(a[1], -1, 1))
        np.testing.assert_allclose(steps.next_observations[1], following, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(steps.rewards[1], reward, rtol=1e-4, atol=1e-5)
        assert steps.last[1] == cut
    assert steps.last.all()
    assert steps.discounts.all()


def test_linear_quadratic_returns_are_the_closed_form():
    """4,000 episodes of the optimal policy from x = 1: their mean return against the value."""
    problem = LinearQuadratic(a=0.9, b=0.5, q=1.0, r=0.1, noise=0.3, discount=0.9)
    ours = environments.LinearQuadraticEnvironments(
        problem, 4000, max_action=10.0, start_std=0.0, time_limit=80
    )
    x, total, weight = ours.reset(0), np.zeros(4000), 1.0
    for _ in range(80):
        steps = ours.step((-problem.gain * x / 10).astype(np.float32))
        total, weight = total + weight * steps.rewards, 0.9 * weight
        x = steps.next_observations
    assert steps.last.all()
    assert (steps.discounts == 1).all()
    error = total.std() / np.sqrt(4000)
    assert abs(total.mean() - problem.value(0.0)) < 4 * error
    state = ours.get_state()
    a = np.ones((4000, 1), np.float32)
    expected = ours.step(a)
    ours.step(a)
    ours.set_state(state)
    for x, y in zip(ours.step(a), expected, strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_is_not_finite_is_named():
    rewards = np.array([0.0, np.inf, np.nan])
    with pytest.raises(environments.NonFiniteStep, match=r"reward of environment 1 .* 17: inf"):
        check_finite(17, observation=np.zeros((3, 2)), reward=rewards)
    check_finite(17, observation=np.zeros((3, 2)), reward=np.zeros(3))


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(-np.inf, 1.0, np.float32), (-1e10, 1e10, np.float64), (0, 3, np.int64)],
)
def test_actions_without_bounds_are_refused(low, high, dtype):
    with pytest.raises(ValueError, match="finite bounds"):
        ActionScale([low], [high], dtype)


def test_unknown_tasks_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no domain 'cartpol'.*ball_in_cup"):
        environments.control_suite("cartpol-swingup", 1)
    with pytest.raises(ValueError, match=r"no task 'swing'.*swingup_sparse"):
        environments.control_suite("cartpole-swing", 1)


def test_envpool_names():
    assert envpool_name("ball_in_cup", "catch") == "BallInCupCatch-v1"
    assert envpool_name("humanoid_CMU", "run") == "HumanoidCMURun-v1"


@pytest.mark.skipif(importlib.util.find_spec("envpool"), reason="envpool is installed")
def test_without_envpool_dm_control_is_used():
    assert isinstance(environments.load_environments("pendulum-swingup", 1), environments.Together)


def test_rescaled_rewards_are_the_same_task_in_another_unit():
    """Twins played alike differ in rewards alone; over the end of an episode, after a resume."""
    plain, scaled = (
        short("reacher-easy", 2),
        environments.RescaledRewards(short("reacher-easy", 2), 100.0),
    )
    np.testing.assert_array_equal(plain.reset(5), scaled.reset(5))
    played = actions(2, 40, 2, plain.action_size)
    for step, a in enumerate(played):
        one, other = plain.step(a), scaled.step(a)
        np.testing.assert_array_equal(other.rewards, 100.0 * one.rewards)
        for field in ("next_observations", "discounts", "last", "observations"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        if step == 20:
            scaled.set_state(scaled.get_state())


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_rewards_times_zero_or_less_are_another_task(scale):
    problem = LinearQuadratic(a=0.8, b=0.5, q=1.0, r=0.3, noise=0.2, discount=0.9)
    inner = environments.LinearQuadraticEnvironments(problem, 2, max_action=2.5)
    with pytest.raises(ValueError, match="above 0"):
        environments.RescaledRewards(inner, scale)


def test_rescaled_rewards_of_a_problem_whose_rewards_are_never_zero():
    problem = LinearQuadratic(a=0.8, b=0.5, q=1.0, r=0.3, noise=0.2, discount=0.9)
    inner = environments.LinearQuadraticEnvironments(problem, 3, max_action=2.5)
    scaled = environments.RescaledRewards(inner, 0.01)
    x, a = scaled.reset(1)[:, 0].astype(np.float64), np.full((3, 1), 0.4, np.float32)
    expected = -0.01 * (x**2 + 0.3 * 1.0**2)
    np.testing.assert_allclose(scaled.step(a).rewards, expected, rtol=1e-5)
    assert isinstance(scaled, environments.Environments)


def test_an_action_can_be_held_for_several_of_the_tasks_steps():
    """As if it were repeated: the same physics, an episode of an eighth of the decisions."""
    held, plain = (environments.control_suite("cartpole-swingup", 2, hold=hold) for hold in (8, 1))
    random = np.random.default_rng(0)
    held.reset(0), plain.reset(0)
    for count in range(1, 126):
        actions = random.uniform(-1, 1, (2, 1)).astype(np.float32)
        ours = held.step(actions)
        for _ in range(8):
            theirs = plain.step(actions)
        np.testing.assert_allclose(ours.next_observations, theirs.next_observations, atol=1e-5)
        np.testing.assert_allclose(ours.rewards, theirs.rewards, atol=1e-5)
        assert ours.last.all() == theirs.last.all() == (count == 125)
    with pytest.raises(ValueError, match="hold must be 1 or more"):
        environments.control_suite("cartpole-swingup", 2, hold=0)
    with pytest.raises(ValueError, match="ball_in_cup-catch sets its own control step"):
        environments.control_suite("ball_in_cup-catch", 2, hold=2)
