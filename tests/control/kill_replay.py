"""Kill acting with SIGKILL at random moments; print as JSON what came of it.

Usage: kill_replay.py FOLDER SEED KILLS. A child acts, fills replay and writes checkpoints as
`lab.fit` does, and acknowledges each in a log: so many transitions are safe. The next child must
find all of them, and go on as if nothing had been. A thousand kills:

    python tests/control/kill_replay.py /tmp/kills 0 1000

A kill costs no new interpreter and nothing compiled: children are forked before JAX has started,
and policies are NumPy.
"""

import collections
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

from matchbook.control import acting, environments
from matchbook.control.acting import Experience, Schedule
from matchbook.control.closed_forms import LinearQuadratic
from matchbook.control.learning import Networks, State
from matchbook.lab.checkpoints import Checkpoints

STEPS, EVERY, NUM = 40, 2, 3
PROBLEM = LinearQuadratic(a=0.9, b=0.5, q=1.0, r=0.1, noise=0.3, discount=0.95)
SCHEDULE = Schedule(
    batch_size=8,
    n_step=3,
    discount=0.95,
    samples_per_insert=2,
    min_replay=20,
    max_replay=150,  # less than a whole run inserts: the oldest are forgotten
    updates_per_dispatch=2,
)


class Learner:
    """A linear policy, whose gain each batch moves."""

    observation_size = action_size = 1

    def init(self, seed):
        policy = Networks(np.float32([0.1]), ())
        return State(policy, policy, (), (), (), np.uint32([seed]), np.int32(0))

    def step(self, state, batch):
        gain = state.target.policy + np.float32(1e-3) * np.mean(batch.rewards, dtype=np.float32)
        networks = state.target._replace(policy=gain)
        return state._replace(online=networks, target=networks, step=state.step + np.int32(1))

    def act(self, gain, observations, noise):
        return -gain * observations + np.float32(0.3) * noise


LEARNER = Learner()
acting.act = lambda learner, policy, observations, noise: learner.act(policy, observations, noise)
acting.on_cpu = acting._copy = lambda policy: policy


class Run:
    """The loop, from its newest checkpoint on."""

    def __init__(self, folder):
        self.acknowledged = folder / "acknowledged.log"
        together = environments.LinearQuadraticEnvironments(
            PROBLEM, NUM, max_action=2, time_limit=9
        )
        self.source = Experience(LEARNER, together, SCHEDULE, seed=1)
        self.state, self.done = LEARNER.init(1), 0
        meter = SimpleNamespace(seconds=lambda: 0.0, resumed=0, continues=lambda *_: None)
        place = SimpleNamespace(
            meter=meter, code=lambda: "", checkpoints=lambda name: folder / name
        )
        self.checkpoints = Checkpoints(place, "loop", (), [], EVERY)  # its arrays would be JAX's

    def resume(self):
        """Whether there was a checkpoint; nothing that was acknowledged may be missing.

        What is found is acknowledged, as it may have been written just before the kill.
        """
        found = self.checkpoints.latest()
        if found:
            self.done, _, rest = found
            self.state = jax.tree.unflatten(jax.tree.structure(self.state), rest["learner"])
            self.source.set_state(rest["position"])
        lines = self.acknowledged.read_text().splitlines() if self.acknowledged.exists() else []
        promised = json.loads(lines[-1]) if lines else {"step": 0, "inserted": 0}
        assert self.done >= promised["step"], (self.done, promised)
        assert self.source.replay.inserted >= promised["inserted"], promised
        if self.done > promised["step"]:
            self.acknowledge()
        return bool(found)

    def go_on(self, seen):
        """To the end; `seen(run, batch)` after each step."""
        while self.done < STEPS:
            batch = self.source(self.state)
            self.state, self.done = LEARNER.step(self.state, batch), self.done + 1
            seen(self, batch)
            if self.checkpoints.due(self.done, last=self.done == STEPS):
                learner = jax.tree.leaves(self.state)
                rest = {"position": self.source.get_state(), "learner": learner}
                self.checkpoints.save(self.done, (), rest)
                self.acknowledge()

    def acknowledge(self):
        promise = {"step": self.done, "inserted": self.source.replay.inserted}
        log = os.open(self.acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(log, (json.dumps(promise) + "\n").encode())
        os.fsync(log)
        os.close(log)


def digest(tree):
    """Of every bit of a plain tree."""
    text = hashlib.sha256()

    def add(value):
        if isinstance(value, dict):
            value = list(value.items())
        if isinstance(value, list | tuple):
            text.update(f"{type(value).__name__}{len(value)}".encode())
            for part in value:
                add(part)
        elif isinstance(value, np.ndarray | np.generic):
            text.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        else:
            text.update(repr(value).encode())

    add(tree)
    return text.hexdigest()


def everything(run):
    """Replay row by row, growing transitions, episodes, noise, policy, counters, learner."""
    return digest([tuple(run.state.target), run.source.get_state(), run.done])


def forked(work):
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return process


def uninterrupted(folder):
    """What a run is after each step, and what it drew."""
    run, truth = Run(folder), {}
    run.go_on(lambda run, batch: truth.update({run.done: [everything(run), digest(batch)]}))
    (folder / "truth.json").write_text(json.dumps(truth))


def resumed(folder, truth):
    """The rest of a run, compared at every step; `phase` says how far it came."""

    def compare(run, batch):
        assert [everything(run), digest(batch)] == truth[str(run.done)], run.done
        enter(folder, "acting")

    run = Run(folder)
    if run.resume():
        assert everything(run) == truth[str(run.done)][0], run.done
    enter(folder, "resumed")
    run.go_on(compare)


def enter(folder, phase):
    (folder / "phase").write_text(phase)


def phase(folder):
    """Where a child is."""
    leftovers = {place.suffix for place in (folder / "loop").glob("*.un*")}
    now = (folder / "phase").read_text() or "entering"
    if now == "starting" or not leftovers:
        return now
    return "deleting" if ".unwanted" in leftovers else "writing"


def kill_somewhere(process, folder, chance):
    """The phase in which it was killed; None if it was done before."""
    early, wait = chance.random() < 0.1, None
    while wait is None or time.monotonic() < wait:
        if wait is None and (early or phase(folder) != "starting"):
            wait = time.monotonic() + chance.random() * 0.15
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            assert status == 0, status
            return None
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    assert os.waitpid(process, 0)[1] in (0, signal.SIGKILL)
    return phase(folder)


def finished(folder, truth):
    """To the end; how many checkpoints were acknowledged on the way."""
    assert os.waitpid(forked(lambda: resumed(folder, truth)), 0)[1] == 0
    promises = (folder / "acknowledged.log").read_text().splitlines()
    assert json.loads(promises[-1])["step"] == STEPS
    shutil.rmtree(folder)
    return len(promises)


def main(folder, seed, kills):
    chance, at, acknowledged = random.Random(seed), collections.Counter(), 0
    whole, here = folder / "whole", folder / "killed"
    whole.mkdir(parents=True)
    assert os.waitpid(forked(lambda: uninterrupted(whole)), 0)[1] == 0
    truth = json.loads((whole / "truth.json").read_text())
    while at.total() < kills:
        here.mkdir(exist_ok=True)
        enter(here, "starting")
        where = kill_somewhere(forked(lambda: resumed(here, truth)), here, chance)
        at.update([where] if where else [])
        if where is None or at.total() == kills:
            acknowledged += finished(here, truth)
    print(json.dumps({"kills": at.total(), "at": at, "acknowledged": acknowledged}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
