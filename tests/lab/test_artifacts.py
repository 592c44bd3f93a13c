"""Artifacts: made once, also by two processes; exact in type and value; keyed; repaired."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from matchbook import lab
from matchbook.lab import storage

VALUE = {
    "layers": [{"w": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)}, {}],
    "wide": np.linspace(0, 1, 5),  # float64, which JAX would narrow
    "counts": np.arange(4, dtype=np.int8),
    "empty": jnp.zeros((0, 3), jnp.float16),
    "nothing": np.zeros((2, 0), np.int64),
    "scalar": np.float64(1 / 3),
    "flag": jnp.array(True),
    "key": jax.random.key(3),
    "keys": jax.random.split(jax.random.key(4, impl="rbg"), 2),
    7: ("text", None, 3, 0.1, True, b"\x00\xff"),
    "history": ([0, 10], [1.5, 0.25]),
}


def _assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            _assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            _assert_equal(a, b)
    elif isinstance(one, jax.Array | np.ndarray | np.generic):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    else:
        assert one == other


def test_a_tree_comes_back_equal_in_type_and_value(tmp_path):
    storage.save(tmp_path / "tree", VALUE)
    _assert_equal(storage.load(tmp_path / "tree"), VALUE)


@pytest.mark.parametrize("value", [3, None, [], {}, b"", ["a", 1.5]])
def test_a_tree_without_arrays_is_stored_too(tmp_path, value):
    storage.save(tmp_path / "tree", value)
    _assert_equal(storage.load(tmp_path / "tree"), value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, {2}]}, r"set at \['a'\]\[1\]"),
        (object(), "object at the top"),
        ({"a": {(1, 2): 3}}, r"dict at \['a'\]"),
        ([np.array(["x", None], object)], r"ndarray at \[0\]"),
        ({"state": nnx.Linear(1, 1, rngs=nnx.Rngs(0))}, "Linear at"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_place(tmp_path, value, place):
    with pytest.raises(ValueError, match=place):
        storage.save(tmp_path / "tree", value)
    assert not (tmp_path / "tree").exists()


def test_an_artifact_is_made_once_and_the_same_ever_after(set_session):
    root = set_session()
    made = []

    def make(size, scales):
        made.append((size, scales))
        return {"x": jnp.full(size, scales[0]), "curves": {"loss": ([1, 2], [0.5, 0.25])}}

    first = lab.artifact("teacher", make, size=3, scales=(2.0, 1.0))
    again = lab.artifact("teacher", make, scales=[2.0, 1.0], size=3)
    assert made == [(3, [2.0, 1.0])]
    _assert_equal(first, again)
    lab.artifact("teacher", make, size=4, scales=[2.0, 1.0])
    lab.artifact("pupil", make, size=3, scales=[2.0, 1.0])
    assert len(made) == 3
    folders = [p for p in (root / "runs" / "artifacts").iterdir() if p.is_dir()]
    assert len(folders) == 3
    passport = storage.load(folders[0])["passport"]
    assert passport["command"] is None
    assert passport["jax"] == jax.__version__


def test_within_runs_an_artifact_belongs_to_the_experiment_not_to_the_arm(set_session):
    set_session()
    made = []

    def measure(arm, seed):
        value = lab.artifact("teacher", lambda: made.append((arm, seed)) or {"x": 1.5})
        return lab.Measured({"x": value["x"]})

    def run(**changes):
        settings = {"version": 1, "profile": "smoke", **changes}
        lab.Experiment("toy/art", **settings).run(measure, arms=["a", "b"], seeds=2)

    run()
    assert made == [("a", 0)]
    run(version=2)
    run(version=2, data="other")
    assert made == [("a", 0)] * 3


def test_module_state_is_given_back_as_what_merge_takes(set_session):
    set_session()
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(1)))
    graph, state = nnx.split(model)
    pure = lab.artifact("net", lambda: state)
    x = jnp.ones((4, 2))
    np.testing.assert_array_equal(nnx.merge(graph, pure)(x), model(x))


def test_a_damaged_artifact_is_made_again(set_session, capsys):
    root = set_session()
    lab.artifact("teacher", lambda: {"x": jnp.ones(3)})
    (folder,) = (p for p in (root / "runs" / "artifacts").iterdir() if p.is_dir())
    tree = folder / "tree.json"
    tree.write_text(tree.read_text()[:20])
    np.testing.assert_array_equal(lab.artifact("teacher", lambda: {"x": jnp.ones(3)})["x"], 1.0)
    assert "is damaged" in capsys.readouterr().err


def test_a_maker_that_fails_leaves_nothing(set_session):
    root = set_session()
    with pytest.raises(ZeroDivisionError) as caught:
        lab.artifact("teacher", lambda: 1 / 0)
    assert "while computing teacher of artifacts" in caught.value.__notes__
    assert [p for p in (root / "runs" / "artifacts").iterdir() if p.is_dir()] == []


def test_a_fresh_session_makes_it_once_more_not_at_every_use(set_session):
    set_session()
    made = []
    for fields in ({}, {"fresh": True}, {"fresh": True}, {}):
        set_session(**fields)
        lab.artifact("fresh-one", lambda: made.append(1) or 1)
    # The first use of this process made it already: in its own session that is fresh enough.
    assert len(made) == 1


PROGRAM = """
import os, time
from pathlib import Path
from matchbook import lab
import matchbook.lab.storage

def make():
    with open("made.txt", "a") as file:
        file.write("x")
    time.sleep(1.0)
    return {"x": 0.5}

other = os.fork()  # before JAX has started
me = "child" if other == 0 else "parent"
Path(me).touch()
while not (Path("child").exists() and Path("parent").exists()):
    time.sleep(0.001)
same = lab.artifact("teacher", make) == {"x": 0.5}
if me == "child":
    os._exit(0 if same else 1)
assert same and os.waitpid(other, 0)[1] == 0
"""


def test_two_processes_make_it_once(set_session, tmp_path):
    set_session()
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / "made.txt").read_text() == "x"
