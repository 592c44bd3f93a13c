"""n-step transitions and replay against brute force over whole recorded streams."""

import numpy as np
import pytest

from matchbook.control.environments import Steps
from matchbook.control.replay import Replay
from matchbook.control.transitions import NStep, Transition


def stream(seed, num, length, end=0.2):
    """Random steps of random episodes: some ended by the task, some cut off."""
    rng = np.random.default_rng(seed)
    now = rng.normal(size=(num, 2)).astype(np.float32)
    for _ in range(length):
        actions, following, fresh = rng.normal(size=(3, num, 2)).astype(np.float32)
        last = rng.uniform(size=num) < end
        discounts = np.where(last & (rng.uniform(size=num) < 0.5), 0.0, 1.0)
        discounts = np.where(~last & (rng.uniform(size=num) < 0.2), 0.7, discounts)
        after = np.where(last[:, None], fresh, following)
        yield now, actions, Steps(following, rng.normal(size=num), discounts, last, after)
        now = after


def expected(recorded, environment, n, discount):
    """For every step that led to `j`, the transition into `j` from n steps before or from the
    beginning; at the end all shorter ones too. By loops, with nothing carried along.
    """
    episode, found = [], []
    for now, actions, steps in recorded:
        i = environment
        outcome = steps.rewards[i], steps.discounts[i], steps.next_observations[i]
        episode.append((now[i], actions[i], *outcome))
        j = len(episode)
        starts = range(max(0, j - n), j) if steps.last[i] else [max(0, j - n)]
        for start in starts:
            reward, weight = 0.0, 1.0
            for _, _, r, d, _ in episode[start:j]:
                reward, weight = reward + weight * r, weight * discount * d
            found.append((*episode[start][:2], reward, weight, episode[-1][4]))
        if steps.last[i]:
            episode = []
    return found


def collect(n_step, recorded):
    """What each environment gave, told apart by its first observation."""
    return [n_step.add(*step) for step in recorded]


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("end", [0.0, 0.2, 0.7, 1.0])
def test_against_brute_force(n, end):
    recorded = list(stream(seed=n, num=3, length=60, end=end))
    added = collect(NStep(3, 2, 2, n=n, discount=0.9), recorded)
    rows = [row for transition in added for row in zip(*transition, strict=True)]
    want = [expected(recorded, i, n, 0.9) for i in range(3)]
    assert len(rows) == sum(len(part) for part in want)
    belongs = {tuple(now[i]): i for now, _, _ in recorded for i in range(3)}
    given = [[], [], []]
    for row in rows:
        given[belongs[tuple(row[0])]].append(row)
    for ours, truth in zip(given, want, strict=True):
        for row, other in zip(ours, truth, strict=True):
            for a, b in zip(row, other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_every_step_gives_one_and_every_end_up_to_n_minus_one_more():
    recorded = list(stream(seed=0, num=4, length=40))
    counts = [len(t.rewards) for t in collect(NStep(4, 2, 2, n=3, discount=0.9), recorded)]
    lengths, extra = np.zeros(4, int), []
    for _, _, steps in recorded:
        lengths += 1
        extra.append(sum(min(int(k), 3) - 1 for k in lengths[steps.last]))
        lengths[steps.last] = 0
    assert counts == [4 + more for more in extra]


def test_interrupted_transitions_go_on():
    recorded = list(stream(seed=1, num=3, length=30))
    whole, first = (NStep(3, 2, 2, n=4, discount=0.9) for _ in range(2))
    expected = collect(whole, recorded)[13:]
    collect(first, recorded[:13])
    second = NStep(3, 2, 2, n=4, discount=0.9)
    second.set_state(first.get_state())
    for a, b in zip(collect(second, recorded[13:]), expected, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_forgotten_episodes_begin_anew():
    """After `forget`, an environment's first state is the next one it sees."""
    recorded = list(stream(seed=2, num=2, length=10, end=0.0))
    n_step = NStep(2, 2, 2, n=5, discount=0.9)
    collect(n_step, recorded[:6])
    n_step.forget(np.array([True, False]))
    now, actions, steps = recorded[6]
    added = n_step.add(now, actions, steps)
    np.testing.assert_array_equal(added.observations, [now[0], recorded[2][0][1]])
    np.testing.assert_allclose(added.discounts, [0.9 * steps.discounts[0], added.discounts[1]])


@pytest.mark.parametrize(("n", "discount"), [(0, 0.9), (3, 0.0), (3, 1.1)])
def test_settings_out_of_range_are_refused(n, discount):
    with pytest.raises(ValueError, match="must be"):
        NStep(1, 1, 1, n=n, discount=discount)


def transitions(first, count):
    """Transitions that carry their number in every field."""
    numbers = np.arange(first, first + count, dtype=np.float32)
    wide = np.repeat(numbers[:, None], 3, axis=1)
    return Transition(wide, wide[:, :2] + 0.25, numbers + 0.5, numbers + 0.75, -wide)


@pytest.mark.parametrize("bursts", [[3, 1, 4, 1, 5], [10, 10, 1], [25], [7, 30, 2]])
def test_replay_keeps_the_newest(bursts):
    replay, inserted = Replay(10, 3, 2), 0
    for burst in bursts:
        replay.add(transitions(inserted, burst))
        inserted += burst
        sample = replay.sample(np.random.default_rng(0), (400,))
        kept = set(range(max(0, inserted - 10), inserted))
        assert set(sample.observations[:, 0].astype(int)) == kept
        numbers = sample.observations[:, 0]
        np.testing.assert_array_equal(sample.actions, numbers[:, None] + [[0.25, 0.25]])
        np.testing.assert_array_equal(sample.rewards, numbers + 0.5)
        np.testing.assert_array_equal(sample.discounts, numbers + 0.75)
        np.testing.assert_array_equal(sample.next_observations, -sample.observations)
    assert (replay.inserted, len(replay)) == (inserted, min(inserted, 10))


def test_replay_is_uniform():
    """Chi-square of 20,000 draws from 50 places: its 0.9999 quantile at 49 degrees is 94."""
    replay = Replay(64, 3, 2)
    replay.add(transitions(0, 50))
    sample = replay.sample(np.random.default_rng(0), (200, 100))
    assert sample.actions.shape == (200, 100, 2)
    counts = np.bincount(sample.observations[..., 0].astype(int).ravel(), minlength=50)
    assert np.sum((counts - 400) ** 2 / 400) < 94


def test_replay_goes_on_from_its_state():
    whole, other = Replay(10, 3, 2), Replay(10, 3, 2)
    whole.add(transitions(0, 13))
    other.set_state(whole.get_state())
    for replay in (whole, other):
        replay.add(transitions(13, 4))
    one, two = (r.sample(np.random.default_rng(0), (50,)) for r in (whole, other))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_empty_replay_says_so():
    with pytest.raises(ValueError, match="empty"):
        Replay(4, 1, 1).sample(np.random.default_rng(0), (2,))
