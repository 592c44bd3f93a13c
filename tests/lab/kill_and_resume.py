"""Kill a run with SIGKILL at random moments until it is done; print what came of it as JSON.

Usage: kill_and_resume.py FOLDER SEED KILLS [toy | training]. Children are forked before JAX has
started, so that a kill costs no new interpreter. `training` is every kind of training in a row: the
kills are dealt out evenly, and fall at random steps. Twenty of them:

    python tests/lab/kill_and_resume.py /tmp/kills 0 20 training
"""

import functools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from matchbook import lab
from matchbook.lab.passport import library_digest

FOLDER, SEED, KILLS = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
WORK = "toy" if len(sys.argv) < 5 else sys.argv[4]
LOG = FOLDER / "steps.log"


class Stream:
    """Batches that know their position, and leave a trace of each draw."""

    def __init__(self):
        self.position = 0

    def __next__(self):
        self.position += 1
        with LOG.open("a") as log:
            log.write(".")
        time.sleep(0.003)
        return np.random.default_rng(self.position).normal(size=4).astype(np.float32)

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def plain_stream():
    stream = Stream()
    while True:
        yield next(stream)


def step(state, batch):
    weights, key = state
    key, noise = jax.random.split(key)
    difference = weights - batch * jax.random.uniform(noise, (4,))
    return (weights - 0.1 * difference, key), {"loss": jnp.mean(difference**2)}


def measure(arm, seed):
    state, curves = (jnp.zeros(4), jax.random.key(seed)), {}
    for name, batches in (("first", Stream()), ("second", plain_stream())):
        state, history = lab.fit(
            step, state, batches, num_steps=23, log_every=7, name=name, checkpoint_every=4,
            evaluate=lambda state: {"norm": np.sum(np.asarray(state[0]))}, eval_every=5,
        )  # fmt: skip
        curves |= {f"{name}.{metric}": curve for metric, curve in history.items()}
    return lab.Measured({f"w{i}": w for i, w in enumerate(np.asarray(state[0]))}, curves)


def child(runs):
    process = os.fork()
    if process == 0:
        os.environ["MATCHBOOK_SESSION"] = json.dumps({"root": str(FOLDER), "runs": runs})
        status = 1
        try:
            experiment = lab.Experiment("toy/kill", version=1, profile="smoke")
            experiment.run(measured(), arms=["a"], seeds=1)
            status = 0
        finally:
            os._exit(status)
    return process


def measured():
    return measure if WORK == "toy" else functools.partial(trainings.measure, LOG)


def marks():
    """What a draw leaves in the log, in the order of the work."""
    return "." if WORK == "toy" else "".join(trainings.KINDS.values())


def drawn():
    return LOG.read_text() if LOG.exists() else ""


def ripe(since, mark, patience):
    """Whether the draws since then are so many of this mark, or beyond it."""
    new = drawn()[since:]
    return new.count(mark) >= patience or any(later > mark for later in new)


def main():
    assert lab.fit, lab.Experiment  # imported here once, not in every child
    library_digest()  # cached for all children: somebody may be editing the library meanwhile
    for option, value in {"dir": str(FOLDER / "compiled"), "max_size": -1}.items():
        jax.config.update(f"jax_compilation_cache_{option}", value)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # programs that hardly run
    chance, killed_at = random.Random(SEED), []
    assert os.waitpid(child("whole"), 0)[1] == 0
    whole = drawn()
    while True:
        killed = len(killed_at)
        process, start = child("killed"), len(drawn())
        mark = marks()[min(killed, KILLS - 1) * len(marks()) // max(KILLS, 1)]
        patience = chance.randint(0, 16 if WORK == "toy" else 3)
        while killed < KILLS and not ripe(start, mark, patience):
            time.sleep(0.001)
            if (ended := os.waitpid(process, os.WNOHANG))[0]:
                break
        else:
            if killed < KILLS:
                time.sleep(chance.random() * 0.1)
                os.kill(process, signal.SIGKILL)
            ended = os.waitpid(process, 0)
        if ended[1] == 0:
            break
        assert os.WTERMSIG(ended[1]) == signal.SIGKILL, ended
        killed_at.append(drawn()[-1:])
    again = drawn()[len(whole) :]
    drawn_twice = {mark: again.count(mark) - whole.count(mark) for mark in marks()}
    print(json.dumps({"killed": killed_at, "drawn_again": drawn_twice}))


if __name__ == "__main__":
    if WORK == "training":
        import trainings
    main()
