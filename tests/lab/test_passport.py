"""Passports: all that the design asks for, nothing that names a machine, the right command."""

import hashlib
import json
import shlex
import subprocess
import sys
import time
import types

import pytest

from matchbook import lab
from matchbook.lab import passport

FIELDS = {
    "command", "profile", "commit", "dirty", "lock", "library", "python", "jax", "jaxlib", "flax",
    "numpy", "machine", "processor", "cpu_count", "device_platform", "device_kind", "device_count",
    "attention", "data", "determinism", "wall_seconds", "compile_seconds", "resumed",
    "peak_host_bytes", "peak_device_bytes",
}  # fmt: skip
SOURCE = """# %% [markdown]
# # Question?
# %% tags=["parameters"]
profile: str = "laptop"  # which column
arms: list[str] = ["a", "b"]  # what is compared
seeds: int | None = None  # repetitions
rate: float = 1e-3  # learning rate
corpus: str = ""  # folder
sizes = {"laptop": {"seeds": 5}}
# %%
later: dict = make()
"""


def _record(measure=None, **params):
    measure = measure or (lambda arm, seed, **_: lab.Measured({"x": 1.0}))
    experiment = lab.Experiment("toy/one", version=1, profile="laptop")
    return experiment.run(measure, arms=["a"], seeds=1, **params).records[0]


def test_a_record_carries_a_complete_passport_that_names_no_place(set_session, monkeypatch):
    root = set_session()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false --xla_dump_to=/secret/dump")
    made = _record().passport
    assert set(made) == FIELDS
    text = json.dumps(made)
    import socket

    for private in (str(root), "/secret", socket.gethostname()):
        assert private not in text
    assert made["determinism"]["xla_flags"] == ["--xla_cpu_enable_fast_math=false"]
    assert made["peak_host_bytes"] > 10_000_000
    assert made["device_count"] >= 1
    assert made["resumed"] == 0


def test_seconds_are_measured_and_compiling_is_told_apart(set_session):
    import jax

    set_session()

    def measure(arm, seed):
        jax.jit(lambda x: x * 2 + 1)(1.0)
        time.sleep(0.2)
        return lab.Measured({"x": 1.0})

    made = _record(measure).passport
    assert made["wall_seconds"] >= 0.2
    assert 0 < made["compile_seconds"] < made["wall_seconds"]


def test_the_code_is_named_by_commit_and_digests(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    assert passport.source(tmp_path)["commit"] is None
    assert passport.source(tmp_path)["dirty"] is None
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.py").write_text("x = 1\n")
    (tmp_path / "uv.lock").write_text("locked\n")
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "one")
    clean = passport.source(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    assert clean["lock"] == hashlib.sha256(b"locked\n").hexdigest()[:16]
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "new.svg").write_text("made, not source")
    assert passport.source(tmp_path)["dirty"] is False
    (tmp_path / "lib" / "a.py").write_text("x = 2\n")
    assert passport.source(tmp_path)["dirty"] is True
    assert passport.source(tmp_path)["commit"] == clean["commit"]


def test_the_librarys_digest_follows_its_source(tmp_path, monkeypatch):
    package = tmp_path / "matchbook" / "lab"
    package.mkdir(parents=True)
    monkeypatch.setattr(passport, "__file__", str(package / "passport.py"))
    seen = set()
    for name, text in [("a.py", "1"), ("a.py", "2"), ("b.py", "2"), ("notes.txt", "no source")]:
        (package / name).write_text(text)
        seen.add(passport.library_digest.__wrapped__())
    assert len(seen) == 3


@pytest.fixture
def notebook(tmp_path):
    folder = tmp_path / "notebooks" / "toy"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text(SOURCE)
    return tmp_path


def test_the_command_holds_what_differs_from_the_notebook(notebook):
    params = {"rate": 1e-4, "corpus": "my texts", "seeds": None, "steps": 20}
    words = shlex.split(passport.command(notebook, "toy/one", "gpu", params))
    assert words[:5] == ["matchbook", "run", "toy/one", "--profile", "gpu"]
    assert words[5:] == ["-p", "rate=0.0001", "-p", "corpus=my texts"]


def test_within_a_kernel_the_command_holds_what_the_reader_set(notebook, monkeypatch):
    values = {"profile": "smoke", "arms": ["b"], "seeds": 3, "rate": 1e-3, "later": {}, "x": 1}
    shell = types.SimpleNamespace(user_ns=values)
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    words = shlex.split(passport.command(notebook, "toy/one", "smoke", {"rate": 5.0}))
    assert words[5:] == ["-p", 'arms=["b"]', "-p", "seeds=3"]


def test_without_a_notebooks_source_the_command_is_the_plain_one(tmp_path):
    command = passport.command(tmp_path, "toy/none", "smoke", {"rate": 1.0})
    assert command == "matchbook run toy/none --profile smoke"
