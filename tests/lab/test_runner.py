"""Batch runs: what is kept, what is refused, and what becomes of a run that is stopped."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import nbformat
import pytest
from toy_checkout import is_running, make_checkout, matchbook, start_matchbook, wait_until

from matchbook.lab.notebook import find_notebook
from matchbook.lab.parameters import UsageError
from matchbook.lab.records import read_record
from matchbook.lab.runner import RunFailed, run_notebook

TOYS = ("toy/counting", "toy/fitting", "toy/misbehaving")


@pytest.fixture
def root(tmp_path):
    return make_checkout(tmp_path, TOYS)


def _run(root, name, profile="laptop", **options):
    parameters = options.pop("given", {})
    notebook = find_notebook(name, root)
    return run_notebook(notebook, profile, parameters, root=root, runs=root / "runs", **options)


def _records(root, name, runs="runs"):
    return sorted((root / runs / "records" / name).glob("*.json"))


def _printed(root, word):
    """What `toy/misbehaving` printed behind `word`, as soon as it is there."""
    found = re.search(f"^{word}: (.*)$", (root / "printed").read_text(), re.MULTILINE)
    return found and found[1]


def test_a_failing_cell_is_shown_and_the_notebook_kept(root):
    failed = matchbook(root, "run", "toy/misbehaving", "-p", "how=raise")
    assert failed.returncode == 1
    shown, _, trace = failed.stderr.partition("-----")
    assert shown.startswith("matchbook: toy/misbehaving (laptop): cell [4] failed:\n\n")
    assert '    if how == "raise":\n        raise ValueError("raised as asked")\n' in shown
    assert "ValueError: raised as asked" in trace
    assert "\x1b" not in failed.stderr
    assert "papermill" not in failed.stderr  # no trace of the runner itself
    kept = root / "runs" / "notebooks" / "laptop" / "toy" / "misbehaving.ipynb"
    assert failed.stderr.endswith(f"executed notebook: {kept}\n")
    cells = nbformat.read(kept, as_version=4).cells
    assert 'how = "raise"' in cells[2].source
    errors = [o for cell in cells for o in cell.get("outputs", []) if o.output_type == "error"]
    assert [error.evalue for error in errors] == ["raised as asked"]


@pytest.mark.parametrize(
    ("only", "message"),
    [(("dwn", 0), "did you mean 'down'"), (("up", 1), "seed from 0 to 0"), (("up", -1), "seed")],
)
def test_unknown_single_runs_are_refused(root, only, message):
    with pytest.raises(UsageError, match=message):
        _run(root, "toy/counting", only=only)
    assert not (root / "runs").exists()


def test_the_kernel_is_this_interpreter_in_the_notebooks_folder(root, tmp_path, monkeypatch, capfd):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = ["/no/such/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "another"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    ran = _run(root, "toy/misbehaving", replay=("published",), fresh=True)
    printed, noise = capfd.readouterr()
    assert f"python: {sys.executable}\n" in printed
    assert f"folder: {root / 'notebooks' / 'toy'}\n" in printed
    session = json.loads(re.search("^session: (.*)$", printed, re.MULTILINE)[1])
    assert session == {
        "root": str(root),
        "runs": str(root / "runs"),
        "figures": str(root / "runs" / "figures"),
        "replay": ["published"],
        "only": None,
        "fresh": True,
        "recorded": False,
        "batch": True,
    }
    assert noise == ""
    assert ran.path == root / "runs" / "notebooks" / "laptop" / "toy" / "misbehaving.ipynb"


def test_a_run_out_of_time_is_stopped_and_kept(root, capfd):
    with pytest.raises(RunFailed, match="stopped after 5 seconds"):
        _run(root, "toy/misbehaving", given={"how": "sleep"}, timeout=5)
    kernel = int(re.search(r"process: (\d+)", capfd.readouterr().out)[1])
    wait_until(lambda: not is_running(kernel), 20)
    assert (root / "runs" / "notebooks" / "laptop" / "toy" / "misbehaving.ipynb").exists()


def test_a_kernel_that_dies_is_a_failed_run(root):
    with pytest.raises(RunFailed, match="the kernel died"):
        _run(root, "toy/misbehaving", given={"how": "die"}, echo=False)


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_no_kernel_outlives_its_runner(root, sent, code):
    runner = start_matchbook(root, "run", "toy/misbehaving", "-p", "how=sleep")
    wait_until(lambda: _printed(root, "session"))
    kernel = int(_printed(root, "process"))
    assert is_running(kernel)
    os.kill(runner.pid, sent)
    assert runner.wait(timeout=60) == code
    wait_until(lambda: not is_running(kernel), 20)
    assert "Traceback" not in (root / "printed").read_text()


def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(root):
    straight = start_matchbook(root, "run", "toy/fitting", "--runs", "other")
    runner = start_matchbook(root, "run", "toy/fitting", "-p", "pause=0.05")
    checkpoints = root / "runs" / "checkpoints"
    wait_until(lambda: len(list(checkpoints.glob("*/*/*"))) >= 2 or runner.poll() is not None)
    os.kill(runner.pid, signal.SIGKILL)
    assert runner.wait() == -signal.SIGKILL
    assert not _records(root, "toy/fitting")
    again = matchbook(root, "run", "toy/fitting")
    assert again.returncode == 0, again.stderr
    assert straight.wait(timeout=120) == 0
    ((resumed,), (whole,)) = (_records(root, "toy/fitting", runs) for runs in ("runs", "other"))
    assert read_record(resumed).passport["resumed"] > 0
    assert read_record(whole).passport["resumed"] == 0
    assert _results(resumed) == _results(whole)


def _results(path: Path):
    content = json.loads(path.read_text())
    del content["passport"]
    return json.dumps(content, sort_keys=True)
