"""Acting, replay and learning together: the exact ratio, the lag, and exact resume."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook import lab
from matchbook.control import environments
from matchbook.control.acting import Experience, Schedule
from matchbook.control.agent import Agent
from matchbook.control.closed_forms import LinearQuadratic
from matchbook.control.dmpo import DMPO
from matchbook.control.evaluation import episode_returns
from matchbook.control.learning import update
from matchbook.critics import MixtureOfGaussians
from matchbook.lab import storage

PROBLEM = LinearQuadratic(a=0.9, b=0.5, q=1.0, r=0.1, noise=0.3, discount=0.95)
SCHEDULE = Schedule(
    batch_size=16,
    n_step=3,
    discount=0.95,
    samples_per_insert=4,
    min_replay=50,
    max_replay=100,
    updates_per_dispatch=2,
)
LEARNER = DMPO(
    observation_size=1,
    action_size=1,
    critic=MixtureOfGaussians(components=2, estimator="quadrature", num_nodes=2),
    policy_sizes=(16,),
    critic_sizes=(16,),
    num_actions=3,
    learning_rate=1e-2,
    target_policy_period=3,
)


def together(num=4):
    return environments.LinearQuadraticEnvironments(PROBLEM, num, max_action=2.0, time_limit=7)


class Gym:
    """The same problem with Gymnasium's reset and step; ends itself after a random time."""

    action_space = SimpleNamespace(low=np.float32([-2]), high=np.float32([2]), dtype=np.float32)

    def reset(self, *, seed):
        self.random = np.random.default_rng(seed)
        self.x = self.random.normal(size=1)
        return self.x, {}

    def step(self, u):
        reward = -(self.x[0] ** 2) - 0.1 * u[0] ** 2
        self.x = 0.9 * self.x + 0.5 * u + 0.3 * self.random.normal(size=1)
        return self.x, reward, self.random.uniform() < 0.1, False, {}


def single():
    return environments.from_gymnasium(Gym, 3)


@functools.partial(jax.jit, static_argnums=0)
def run(learner, state, batches):
    return update(learner, state, batches)


def same(one, other):
    return all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("samples_per_insert", [0.5, 4, 7.3, 32])
def test_the_ratio_is_exact(samples_per_insert):
    """Never more samples than are paid for, never a sweep of the environments too many."""
    schedule = Schedule(
        batch_size=16,
        n_step=3,
        samples_per_insert=samples_per_insert,
        min_replay=50,
        updates_per_dispatch=2,
    )
    source, state = Experience(LEARNER, together(), schedule, seed=0), LEARNER.init(0)
    burst = 4 * 3  # all four environments at the end of an episode
    for call in range(1, 25):
        batches = source(state)
        assert batches.rewards.shape == (2, 16)
        paid = samples_per_insert * (source.replay.inserted - 50)
        assert call * 32 <= paid
        assert call * 32 > paid - samples_per_insert * burst or source.replay.inserted < 50 + burst


def test_the_policy_that_acts_is_one_call_old():
    acted = []

    class Spying(Experience):
        def _sweep(self, policy):
            acted.append(policy)
            super()._sweep(policy)

    source, states, used = Spying(LEARNER, together(), SCHEDULE, seed=0), [], []
    state = LEARNER.init(0)
    for _ in range(6):
        states.append(state)
        acted.clear()
        batches = source(state)
        assert acted
        assert all(same(policy, acted[0]) for policy in acted)
        used.append(acted[0])
        state, _ = run(LEARNER, state, batches)
    for policy, state in zip(used, [states[0], *states[:-1]], strict=True):
        assert same(policy, state.target.policy)
    assert not same(used[0], used[-1])


@pytest.mark.parametrize("make", [together, single])
def test_resumed_equals_uninterrupted(make, tmp_path):
    """Through the disk, into fresh objects: replay, episodes, noise and learner go on alike."""
    whole, state = Experience(LEARNER, make(), SCHEDULE, seed=1), LEARNER.init(1)
    for _ in range(4):
        state, _ = run(LEARNER, state, whole(state))
    storage.save(tmp_path / "saved", {"state": jax.tree.leaves(state), "rest": whole.get_state()})
    saved = storage.load(tmp_path / "saved")
    other = jax.tree.unflatten(jax.tree.structure(state), saved["state"])
    resumed = Experience(LEARNER, make(), SCHEDULE, seed=1)
    resumed.set_state(saved["rest"])
    for _ in range(4):
        one, two = whole(state), resumed(other)
        assert same(one, two)
        (state, metrics), (other, also) = run(LEARNER, state, one), run(LEARNER, other, two)
        assert same(metrics, also)
    assert same(state.online, other.online)
    assert whole.environment_steps == resumed.environment_steps


def agent(seed, schedule=SCHEDULE):
    return Agent(LEARNER, together(), schedule, seed=seed, judged_in=together(5))


def test_fit_runs_an_agent():
    """In the lab's loop: one step is a dispatch, evaluations know the steps that were taken."""
    ours = agent(0)
    state, curves = lab.fit(
        ours.step,
        ours.init(),
        ours.experience,
        num_steps=ours.num_steps(250),
        log_every=5,
        evaluate=ours.evaluate,
        eval_every=10,
    )
    assert ours.num_steps(250) == (250 - 50) * 4 // 32 == 25
    assert int(state.step) == 50
    assert set(curves) >= {"critic_loss", "policy_loss", "temperature", "return"}
    steps, taken = curves["environment_steps"]
    np.testing.assert_array_equal(steps, [0, 10, 20, 25])
    inserted = ours.experience.replay.inserted
    assert taken[0] == 0
    assert 250 / (1 + 2 / 7) - 4 <= taken[-1] == ours.experience.environment_steps <= inserted


class Broken(environments.LinearQuadraticEnvironments):
    def __init__(self, field):
        super().__init__(PROBLEM, 4, max_action=2.0)
        self.field, self.steps = field, 0

    def step(self, actions):
        steps, self.steps = super().step(actions), self.steps + 1
        if self.steps == 9:
            broken = getattr(steps, self.field).copy()
            broken[2] = np.nan
            steps = steps._replace(**{self.field: broken})
        return steps


@pytest.mark.parametrize(
    ("field", "name"), [("rewards", "reward"), ("next_observations", "observation")]
)
def test_what_is_not_finite_stops_the_run(field, name):
    source = Experience(LEARNER, Broken(field), SCHEDULE, seed=0)
    with pytest.raises(environments.NonFiniteStep, match="not finite at its step 9") as caught:
        source(LEARNER.init(0))
    assert (caught.value.environment, caught.value.field) == (2, name)
    assert np.isfinite(source.replay.get_state()["rows"]).all()


def test_a_policy_that_is_not_finite_stops_the_run():
    state = LEARNER.init(0)
    broken = jax.tree.map(lambda x: x * np.float32(np.nan), state.target.policy)
    state = state._replace(target=state.target._replace(policy=broken))
    with pytest.raises(environments.NonFiniteStep, match="the action of environment 0"):
        Experience(LEARNER, together(), SCHEDULE, seed=0)(state)


def test_evaluation_is_one_whole_episode_each():
    """Against a loop by hand; starts alike for equal seeds; episodes may end at any time."""

    class Uneven(environments.LinearQuadraticEnvironments):
        def step(self, actions):
            steps = super().step(actions)
            self.count = getattr(self, "count", 0) + 1
            return steps._replace(last=(self.count % (2 + np.arange(self.num))) == 0)

    policy, played = LEARNER.init(0).target.policy, Uneven(PROBLEM, 5, max_action=2.0)
    returns = episode_returns(LEARNER, policy, played, seed=3)
    assert played.count == 6
    other, rewards = environments.LinearQuadraticEnvironments(PROBLEM, 5, max_action=2.0), []
    now = other.reset(3)
    for _ in range(6):
        mean = LEARNER.policy(policy, jnp.asarray(now)).mean
        steps = other.step(np.asarray(mean))
        rewards.append(steps.rewards)
        now = steps.observations
    expected = [np.sum([r[i] for r in rewards[: 2 + i]]) for i in range(5)]
    np.testing.assert_allclose(returns, expected, rtol=1e-5)
    whole = together(5)
    one, two = (episode_returns(LEARNER, policy, whole, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_sizes_that_disagree_are_refused():
    learner = DMPO(**{**vars(LEARNER), "observation_size": 3})
    with pytest.raises(ValueError, match=r"sizes \(1, 1\).*\(3, 1\)"):
        Experience(learner, together(), SCHEDULE, seed=0)


@pytest.mark.parametrize("setting", [{"samples_per_insert": 0}, {"min_replay": 200}])
def test_schedules_that_cannot_be_are_refused(setting):
    with pytest.raises(ValueError, match="must be"):
        Schedule(**{"max_replay": 100, "min_replay": 50} | setting)
