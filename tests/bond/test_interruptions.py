"""J-BOND interrupted, by its reward or from outside, and started again: the same record."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook import lab
from matchbook.bond import algorithms, enumerable_lm, rewards, sequences

STEPS, EVERY, FAILS_AT = 9, 2, 7
GRAPH, WEIGHTS = enumerable_lm.new_model(enumerable_lm.config(8), seed=0)
OPTIMIZER = algorithms.adam(1e-2, 3)


class Scorer:
    """Prefers long answers with different tokens; breaks down at the wish of a test."""

    def __init__(self):
        self.calls, self.fails_at, self.scored = 0, None, []

    def __call__(self, prompts, answers):
        self.calls += 1
        if self.calls == self.fails_at:
            raise ConnectionError("the reward's server is gone")
        self.scored += zip(prompts, answers, strict=True)
        return [
            len(set(answer)) + hash_free(prompt + answer)
            for prompt, answer in zip(prompts, answers)
        ]


def hash_free(words):
    """A number in [0, 1) that depends on the text alone."""
    return sum(ord(c) * (i + 1) for i, c in enumerate(words)) % 97 / 97


SCORER = Scorer()
REWARD = rewards.HostReward(SCORER, lambda tokens: "".join(map(str, tokens)), stop_tokens=(7,))
POLICY = sequences.transformer_policy(GRAPH, 3, (7,))
STEP = algorithms.jbond_step(POLICY, OPTIMIZER, REWARD, algorithms.ema(0.1), gamma=0.5)


def measure(batches):
    def run(arm, seed):
        state = algorithms.policy_state(WEIGHTS, OPTIMIZER, seed)
        state, history = lab.fit(
            STEP, state, batches(), num_steps=STEPS, log_every=2, checkpoint_every=EVERY
        )
        sums = [jnp.sum(leaf) for leaf in jax.tree.leaves((state.weights, state.anchor))]
        numbers = {f"sum{i}": total for i, total in enumerate(sums)}
        return lab.Measured(numbers, history)

    return run


def prompts():
    return itertools.repeat(enumerable_lm.prompts())


class Stopped(Exception):
    pass


def stopping():
    """Prompts that end with an exception where a kill might come."""
    for step in itertools.count():
        if step == FAILS_AT:
            raise Stopped
        yield enumerable_lm.prompts()


@pytest.fixture
def run(tmp_path, monkeypatch):
    def start(batches, runs):
        session = {"root": str(tmp_path), "runs": runs}
        monkeypatch.setenv("MATCHBOOK_SESSION", json.dumps(session))
        experiment = lab.Experiment("toy/jbond", version=1, profile="smoke")
        return experiment.run(measure(batches), arms=["jbond"], seeds=1).records[0]

    REWARD.cached.clear()
    SCORER.calls, SCORER.fails_at, SCORER.scored = 0, None, []
    return start


def assert_same(one, other):
    assert one.numbers == other.numbers
    assert one.curves.keys() == other.curves.keys()
    for name, curve in one.curves.items():
        np.testing.assert_array_equal(curve, other.curves[name])


def test_a_reward_that_raises_loses_nothing(run):
    """Neither updates up to the last checkpoint nor rewards that were paid for."""
    whole = run(prompts, "whole")
    assert whole.curves["generations"][1][-1] == 24
    everything = set(SCORER.scored)

    REWARD.cached.clear()
    SCORER.calls, SCORER.fails_at, SCORER.scored = 0, FAILS_AT, []
    with pytest.raises(Exception, match="the reward's server is gone"):
        run(prompts, "broken")
    kept = len(SCORER.scored)
    assert kept > 0
    SCORER.fails_at = None
    resumed = run(prompts, "broken")
    assert resumed.passport["resumed"] == 1
    assert_same(resumed, whole)
    assert len(SCORER.scored) == len(set(SCORER.scored))  # no pair was paid for twice
    assert set(SCORER.scored) == everything


def test_killed_and_resumed_it_gives_the_same_record(run):
    whole = run(prompts, "whole")
    with pytest.raises(Stopped):
        run(stopping, "killed")
    resumed = run(prompts, "killed")
    assert resumed.passport["resumed"] == 1
    assert_same(resumed, whole)
