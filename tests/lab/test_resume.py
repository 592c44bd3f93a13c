"""Interrupted anywhere and started again, a run ends with the same record, bit for bit."""

import importlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook import lab
from matchbook.lab import checkpoints
from matchbook.lab.records import read_record


class Interrupted(Exception):
    pass


class Telling:
    """Random batches with a position that can be told and set, as Grain's iterators have."""

    def __init__(self, stop_after=None):
        self.rng, self.stop_after, self.drawn = np.random.default_rng(5), stop_after, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.drawn == self.stop_after:
            raise Interrupted
        self.drawn += 1
        return self.rng.normal(size=4).astype(np.float32)

    def get_state(self):
        return {"rng": self.rng.bit_generator.state, "note": b"\x00", "seen": np.arange(3)}

    def set_state(self, state):
        np.testing.assert_array_equal(state["seen"], np.arange(3))
        self.rng.bit_generator.state = state["rng"]


def _step(state, batch):
    weights, key = state["weights"], state["key"]
    key, noise = jax.random.split(key)
    x = batch + jax.random.normal(noise, (4,))
    loss, gradient = jax.value_and_grad(lambda w: jnp.mean((w - jnp.sin(x)) ** 2))(weights)
    new = {"weights": weights - 0.1 * gradient, "key": key, "count": state["count"] + 1}
    return new, {"loss": loss, "first": weights[0]}


def _initial(seed):
    weights = jax.device_put(jnp.zeros(4), jax.devices()[0])  # committed, unlike the others
    return {"weights": weights, "key": jax.random.key(seed), "count": jnp.int8(0)}


class Measure:
    """Trains on one kind of source; the source raises after `stop_after` draws."""

    def __init__(self, kind, stop_after=None, **settings):
        self.kind, self.stop_after, self.source = kind, stop_after, None
        self.settings = {"num_steps": 23, "log_every": 5, "checkpoint_every": 4, **settings}

    def __call__(self, arm, seed):
        source = self.source = Telling(self.stop_after)
        if self.kind == "plain":
            batches = (batch for batch in source)
        elif self.kind == "telling":
            batches = source
        else:
            batches = _OfState(source)
        state, history = lab.fit(
            _step,
            _initial(seed),
            batches,
            evaluate=lambda state: {"norm": jnp.sum(jnp.abs(state["weights"]))},
            eval_every=6,
            **self.settings,
        )
        numbers = {f"w{i}": w for i, w in enumerate(np.asarray(state["weights"]))}
        numbers["key"] = int(jax.random.key_data(state["key"])[1])
        return lab.Measured(numbers, history)


class _OfState:
    """A function of the state that draws from something with a position of its own."""

    def __init__(self, source):
        self.source = source
        self.get_state, self.set_state = source.get_state, source.set_state

    def __call__(self, state):
        return next(self.source) + 0.01 * np.asarray(state["weights"])


def _run(measure, runs="runs"):
    experiment = lab.Experiment("toy/resume", version=1, profile="smoke")
    return experiment.run(measure, arms=["a"], seeds=1).records[0]


@pytest.fixture
def interrupted(set_session):
    """`interrupted(kind, stop_after, **settings)` -> (root, record of an uninterrupted run)."""

    def start(kind, stop_after, **settings):
        set_session(runs="whole")
        whole = _run(Measure(kind, **settings))
        root = set_session(runs="runs")
        with pytest.raises(Interrupted):
            _run(Measure(kind, stop_after, **settings))
        assert not list((root / "runs").rglob("*-0-*.json"))
        return root, whole

    return start


@pytest.mark.parametrize("kind", ["plain", "telling", "of_state"])
@pytest.mark.parametrize("stop_after", [3, 9, 22])
def test_resumed_is_uninterrupted(interrupted, kind, stop_after):
    root, whole = interrupted(kind, stop_after)
    measure = Measure(kind)
    again = _run(measure)
    assert again.results() == whole.results()
    # A chunk that cannot be drawn to its end does not run; nothing done before is done again.
    saved = stop_after // 4 * 4
    assert measure.source.drawn == (23 if kind == "plain" else 23 - saved)
    assert again.passport["resumed"] == (1 if saved else 0)
    assert not (root / "runs" / "checkpoints" / whole.key).exists()


@pytest.mark.parametrize("log_every", [1, 4, 23, 40])
def test_resumed_is_uninterrupted_for_all_windows(interrupted, log_every):
    settings = {"log_every": log_every, "checkpoint_every": 7}
    _, whole = interrupted("telling", 16, **settings)
    assert _run(Measure("telling", **settings)).results() == whole.results()


def test_several_interruptions_in_a_row(interrupted):
    _, whole = interrupted("telling", 6)
    for stop_after in (1, 5, 5, 5):
        with pytest.raises(Interrupted):
            _run(Measure("telling", stop_after))
    again = _run(Measure("telling"))
    assert again.results() == whole.results()
    assert again.passport["resumed"] >= 2


def test_only_the_newest_two_are_kept(interrupted):
    root, whole = interrupted("telling", 22)
    folder = root / "runs" / "checkpoints" / whole.key / "01-fit"
    assert sorted(p.name for p in folder.iterdir()) == ["0000000016", "0000000020"]


def test_a_damaged_checkpoint_gives_way_to_an_older_one(interrupted, capsys):
    root, whole = interrupted("telling", 22)
    folder = root / "runs" / "checkpoints" / whole.key / "01-fit"
    for file in (folder / "0000000020" / "arrays").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:7])
    (folder / "0000000024.unfinished").mkdir()
    measure = Measure("telling")
    assert _run(measure).results() == whole.results()
    assert measure.source.drawn == 23 - 16
    assert "0000000020 is damaged" in capsys.readouterr().err


def test_a_checkpoint_of_other_settings_or_code_is_not_continued(interrupted, capsys, monkeypatch):
    interrupted("telling", 10)
    monkeypatch.setattr("matchbook.lab.running.library_digest", lambda: "other code")
    measure = Measure("telling")
    _run(measure)
    assert measure.source.drawn == 23
    assert "of other code or settings: starting over" in capsys.readouterr().err


def test_a_run_with_other_parameters_does_not_find_it(interrupted):
    interrupted("telling", 10)
    measure = Measure("telling")
    experiment = lab.Experiment("toy/resume", version=2, profile="smoke")
    experiment.run(measure, arms=["a"], seeds=1)
    assert measure.source.drawn == 23


def test_a_fresh_session_starts_over(interrupted, set_session):
    interrupted("telling", 10)
    set_session(fresh=True)
    measure = Measure("telling")
    _run(measure)
    assert measure.source.drawn == 23


def test_nothing_is_kept_after_a_metric_was_not_finite(set_session):
    root = set_session()

    def step(count, batch):
        count = count + 1
        return count, {"loss": jnp.where(count == 7, jnp.nan, 0.0)}

    def measure(arm, seed):
        lab.fit(step, 0, iter([()] * 20), num_steps=20, log_every=4, checkpoint_every=2)

    experiment = lab.Experiment("toy/nan", version=1, profile="smoke")
    with pytest.raises(lab.NonFiniteError, match="'loss' is nan at step 7"):
        experiment.run(measure, arms=["a"], seeds=1)
    kept = [p.name for p in (root / "runs" / "checkpoints").glob("*/01-fit/*")]
    assert sorted(kept) == ["0000000004", "0000000006"]


def test_several_loops_in_one_run_each_keep_their_own(set_session):
    def measure_with(stop_after):
        drawn = []

        def measure(arm, seed):
            state = _initial(seed)
            for i in range(2):
                source = Telling(stop_after if i == 1 else None)
                state, history = lab.fit(
                    _step, state, source, num_steps=9, name="same", checkpoint_every=4
                )
                drawn.append(source.drawn)
            return lab.Measured({"w": state["weights"][0]}, history)

        return measure, drawn

    set_session(runs="whole")
    whole = _run(measure_with(None)[0])
    set_session(runs="runs")
    with pytest.raises(Interrupted):
        _run(measure_with(5)[0])
    measure, drawn = measure_with(None)
    assert _run(measure).results() == whole.results()
    assert drawn == [0, 5]


def test_a_loop_within_an_artifact_resumes(set_session):
    root = set_session()
    drawn = []

    def make(stop_after):
        def train(size):
            source = Telling(stop_after)
            try:
                return lab.fit(_step, _initial(0), source, num_steps=size, checkpoint_every=4)[0]
            finally:
                drawn.append(source.drawn)

        return train

    with pytest.raises(Interrupted):
        lab.artifact("teacher", make(9), size=20)
    resumed = lab.artifact("teacher", make(None), size=20)
    assert drawn == [9, 12]
    assert not list((root / "runs" / "checkpoints").iterdir())
    shutil.rmtree(root / "runs" / "artifacts")
    whole = lab.artifact("teacher", make(None), size=20)
    np.testing.assert_array_equal(whole["weights"], resumed["weights"])
    assert whole["count"].dtype == jnp.int8


def test_without_a_number_of_steps_checkpoints_follow_the_clock(set_session, monkeypatch):
    set_session()
    seen = []

    class Spy(checkpoints.Checkpoints):
        def save(self, step, state, rest):
            seen.append(step)
            super().save(step, state, rest)

    monkeypatch.setattr(importlib.import_module("matchbook.lab.fit"), "Checkpoints", Spy)
    settings = {"checkpoint_every": None, "num_steps": 20}
    _run(Measure("telling", **settings))
    assert seen == []  # a short loop is not worth one
    clock = itertools.count(0.0, 16.0)  # a look at the clock every 16 seconds
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    set_session(fresh=True)
    _run(Measure("telling", **settings))
    # Looks: at the start, after each chunk (the loop stops at 5, 6, 10, 12, ...), at each save.
    assert seen == [6, 12, 18, 20]


def kill_and_resume(folder, kills, work):
    """What came of it, and the record made between the kills, which must equal the other one."""
    program = Path(__file__).parent / "kill_and_resume.py"
    done = subprocess.run(
        [sys.executable, str(program), str(folder), "0", str(kills), work],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    (whole,) = (folder / "whole").rglob("*-0-*.json")
    (killed,) = (folder / "killed").rglob("*-0-*.json")
    assert read_record(whole).results() == read_record(killed).results()
    assert not list((folder / "killed" / "checkpoints").iterdir())
    return json.loads(done.stdout.splitlines()[-1]), read_record(killed)


def test_killed_at_random_moments_it_ends_with_the_same_record(tmp_path):
    story, record = kill_and_resume(tmp_path, 4, "toy")
    assert len(story["killed"]) == 4
    assert record.passport["resumed"] >= 1


def test_every_kind_of_training_survives_a_kill_bit_for_bit(tmp_path):
    """Weights, optimizer, keys and the place in the data; 20 kills: see kill_and_resume.py."""
    story, record = kill_and_resume(tmp_path, 5, "training")
    assert len(story["killed"]) == 5
    assert record.passport["resumed"] >= 1
    assert set(record.numbers) == {
        f"{kind}.{number}"
        for kind in ("scratch", "distilled", "sft", "on_policy", "offline")
        for number in ("state", "next_batch")
    }


SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from matchbook import lab

rows = NamedSharding(jax.make_mesh((4,), ("data",)), PartitionSpec("data"))

def step(state, batch):
    w = 0.9 * state["w"] + batch
    return {"w": w, "count": state["count"] + 1}, {"sum": jnp.sum(w)}

def batches(stop):
    for i in range(20):
        assert i != stop, "stop"
        yield np.float32(i)

def measure_until(stop):
    def measure(arm, seed):
        state = {"w": jax.device_put(jnp.arange(8.0), rows), "count": jnp.int32(0)}
        state, history = lab.fit(step, state, batches(stop), num_steps=20, checkpoint_every=5)
        assert state["w"].sharding == rows
        assert len(state["w"].addressable_shards) == 4
        return lab.Measured({"count": state["count"]}, history)
    return measure

experiment = lab.Experiment("toy/sharded", version=1, profile="smoke")
try:
    experiment.run(measure_until(12), arms=["a"], seeds=1)
except AssertionError:
    (resumed,) = experiment.run(measure_until(None), arms=["a"], seeds=1).records
    assert resumed.passport["resumed"] == 1 and resumed.passport["device_count"] == 4
    assert resumed.numbers["count"] == 20
    print("resumed")
"""


def test_a_sharded_state_resumes_sharded(set_session):
    set_session()
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "resumed\n", done.stderr
