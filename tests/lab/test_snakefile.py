"""The workflow: what fails stops nothing else, what is added is all that runs."""

import fcntl
import re
import subprocess
import sys

import yaml
from toy_checkout import REPOSITORY, environment, make_checkout, matchbook

from matchbook.lab.records import Record, read_record, write_record
from matchbook.lab.reproduce import code_digest, jobs_at_once, reproduce


def _edit(root, old, new):
    path = root / "notebooks" / "toy" / "counting.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _planned(root, *arguments):
    """The jobs of a dry run, by their message."""
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "env/profiles/local"]
    done = subprocess.run(
        [*command, "--dry-run", "--cores", "2", *arguments],
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return sorted(re.findall(r"^Job \d+: (.*)$", done.stdout + done.stderr, re.MULTILINE))


def test_where_jobs_are_notebooks_long_runs_are_jobs_all_the_same(tmp_path):
    root = make_checkout(tmp_path, ("00_overview", "toy/counting"))
    whole = _planned(root, "--config", "split=False")
    assert whole == ["00_overview: pictures", "toy/counting: pictures"]
    for seconds, more in ((5.0, 0), (90.0, 2)):
        record = Record(
            experiment="toy/counting",
            version=1,
            arm="up",
            seed=0,
            params={},
            numbers={"end": 1.0},
            passport={"profile": "laptop", "wall_seconds": seconds},
        )
        write_record(record, root / "figures" / "records" / "toy" / "counting")
        assert len(_planned(root, "--config", "split=False")) == len(whole) + more


def test_a_failed_job_stops_no_other_and_an_added_seed_runs_alone(tmp_path):
    root = make_checkout(tmp_path, ("00_overview", "toy/counting"))
    _edit(root, "if arm == broken", 'if arm == "down"')
    runs = root / "runs" / "reproduce" / "laptop"

    failed = matchbook(root, "reproduce", "--split")
    assert failed.returncode == 1
    assert "ValueError: down is broken" in failed.stderr
    assert "some jobs failed" in failed.stdout
    assert [path.name for path in (runs / "jobs").rglob("*.json")] == ["up-0.json"]
    assert (runs / "drawn" / "00_overview").exists()
    assert not (runs / "drawn" / "toy").exists()
    assert (runs / "notebooks" / "laptop" / "toy" / "counting" / "down-0.ipynb").exists()
    assert not (runs / "finished").exists()
    (made,) = (runs / "records").rglob("up-*.json")
    first = made.read_bytes()
    assert (runs / "jobs" / "toy" / "counting" / "up-0.json").read_bytes() == first
    assert not (runs / "figures" / "laptop" / "toy").exists()

    _edit(root, 'if arm == "down"', "if arm == broken")
    done = matchbook(root, "reproduce", "--keep", "--split")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 steps" in done.stderr  # the failed run, the pictures, and the end
    assert made.read_bytes() == first
    names = {path.name for path in (runs / "figures" / "laptop" / "toy" / "counting").iterdir()}
    assert {"ends.svg", "ends.png", "ends.csv", "ends.json", "numbers.csv"} <= names
    assert "gemma2-counting" in (runs / "figures" / "index.html").read_text()
    assert "ours now" in done.stdout
    assert (runs / "finished").exists()
    assert read_record(made).numbers == {"end": 0.005}
    assert not (root / "figures").exists()

    _edit(root, '"laptop": {"seeds": 1', '"laptop": {"seeds": 2')
    assert _planned(root) == [
        "toy/counting: down, seed 1",
        "toy/counting: pictures",
        "toy/counting: up, seed 1",
    ]


def test_an_interrupted_reproduction_goes_on_and_a_finished_one_starts_afresh(
    tmp_path, monkeypatch, capsys
):
    root = make_checkout(tmp_path, ("00_overview",))
    found, codes = [], iter([1, 1, 0, 0, 0, 0])

    def snakemake(root, profile, lock, split):
        """Stands for the workflow: sees the mark of an earlier one, and leaves its own."""
        mark = root / "runs" / "reproduce" / profile / "mark"
        found.append(mark.exists())
        mark.touch()
        return next(codes)

    monkeypatch.setattr("matchbook.lab.reproduce._snakemake", snakemake)
    assert [reproduce(root, "smoke") for _ in range(3)] == [1, 1, 0]
    assert found == [False, True, True]  # a failed one goes on
    assert reproduce(root, "smoke", keep=True) == 0
    assert found[3]
    assert reproduce(root, "smoke") == 0
    assert not found[4]
    assert "starting afresh, as the last one was finished" in capsys.readouterr().out
    (root / "runs" / "reproduce" / "smoke" / "finished").unlink()
    with (root / "notebooks" / "00_overview.py").open("a") as notebook:
        notebook.write("\n# %%\n2 + 2\n")
    assert reproduce(root, "smoke") == 0
    assert not found[5]
    assert "starting afresh, as code has changed" in capsys.readouterr().out


def test_the_digest_of_the_code_sees_notebooks_and_lock(tmp_path):
    root = make_checkout(tmp_path, ("00_overview", "toy/counting"))
    digests = [code_digest(root)]
    _edit(root, "scale: float = 1e-3", "scale: float = 1e-4")
    digests.append(code_digest(root))
    (root / "uv.lock").write_text("version = 1")
    digests.append(code_digest(root))
    assert len(set(digests)) == 3
    assert code_digest(root) == digests[-1]


def test_accelerators_are_not_shared():
    assert jobs_at_once("gpu") == jobs_at_once("paper") == 1
    assert jobs_at_once("laptop") >= 1


def test_profiles_hold_options_of_snakemake():
    help_text = subprocess.run(
        [sys.executable, "-m", "snakemake", "--help"], capture_output=True, text=True
    ).stdout
    for path in sorted((REPOSITORY / "env" / "profiles").glob("*/config.yaml")):
        options = yaml.safe_load(path.read_text())
        # Options of an executor that is not installed here begin with its name.
        known = [option for option in options if not option.startswith(path.parent.name)]
        assert [option for option in known if f"--{option}" not in help_text] == []
        assert known


def test_one_reproduction_waits_for_another(tmp_path):
    """Also where the one was killed and its workflow lives on: the lock is held by both."""
    path = tmp_path / "lock"
    script = (
        "import sys; from pathlib import Path; from matchbook.lab.reproduce import _alone\n"
        "with _alone(Path(sys.argv[1])): print('mine', flush=True)"
    )
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert waiting.stdout is not None
        assert waiting.stdout.readline().startswith("another reproduction is at work")
        assert waiting.poll() is None
    assert waiting.communicate(timeout=60)[0] == "mine\n"
