"""The command: exit codes, errors that help, plans, and what is published redraws by itself."""

import json
import subprocess
import sys

import pytest
from toy_checkout import environment, make_checkout, matchbook

from matchbook.lab import command_line
from matchbook.lab.notebook import find_notebook, pair_agrees
from matchbook.lab.planning import knobs_of
from matchbook.lab.publish import prune, used_records

COMMANDS = (
    "run",
    "list",
    "plan",
    "convert",
    "publish",
    "figures",
    "claims",
    "gallery",
    "reproduce",
    "reproduce-report",
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    checkout = make_checkout(tmp_path, ("00_overview", "toy/counting", "toy/misbehaving"))
    monkeypatch.chdir(checkout)
    monkeypatch.delenv("MATCHBOOK_SESSION", raising=False)
    return checkout


def _snapshot(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["run", "toy/countin"], ["did you mean 'toy/counting'", "00_overview"]),
        (
            ["run", "toy/counting", "-p", "stps=3"],
            ["unknown parameter 'stps': did you mean 'steps'", "scale: float = 0.001  # what one"],
        ),
        (["run", "toy/counting", "-p", "steps=1e1"], ["'steps': expected int, got '1e1'"]),
        (["run", "toy/counting", "-p", "scale=big"], ["'scale': expected float, got 'big'"]),
        (["run", "toy/counting", "--profile", "laptp"], ["did you mean 'laptop'", "smoke"]),
        (["run", "toy/counting", "--profile", "gpu"], ["unknown profile 'gpu'"]),
        (["run", "toy/counting", "--arm", "up"], ["--arm and --seed belong together"]),
        (["run", "toy/counting", "--output", "x"], ["give --arm and --seed"]),
        (["run", "toy/counting", "--arm", "u", "--seed", "0"], ["unknown arm 'u'", "up, down"]),
        (["plan", "-p", "seeds=3"], ["name it"]),
        (["publish", "toy/countin"], ["did you mean 'toy/counting'"]),
        (["reproduce", "--profile", "smok"], ["unknown profile 'smok'"]),
    ],
)
def test_what_does_not_exist_is_refused_with_code_2_and_nothing_run(
    root, capsys, arguments, messages
):
    before = _snapshot(root)
    assert command_line.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    for message in messages:
        assert message in printed.err
    assert "Traceback" not in printed.err
    assert _snapshot(root) == before


@pytest.mark.parametrize(
    "arguments", [[], ["rn"], ["run"], ["run", "x", "--frsh"], ["claims", "x"]]
)
def test_malformed_commands_have_code_2(root, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(arguments)
    assert stop.value.code == 2
    assert "usage: matchbook" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: matchbook {name}" in capsys.readouterr().out


def test_plans_are_json(root, capsys):
    assert command_line.main(["plan", "toy/counting", "-p", "seeds=2", "-p", "arms=up,side"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"notebook": "toy/counting", "arm": arm, "seed": seed}
        for arm in ("up", "side")
        for seed in (0, 1)
    ]
    assert command_line.main(["plan", "--profile", "laptop"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [job["arm"] for job in planned] == ["up", "down"]  # the others run nothing


def test_the_list_has_each_notebook_with_its_question(root, capsys):
    assert command_line.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert "toy/counting\n    Counting?\n    not published yet\n" in printed
    assert "00_overview\n    Nothing to run\n    seconds, runs nothing\n" in printed


def test_convert_writes_the_pair_once(root, capsys):
    assert command_line.main(["convert"]) == 0
    assert capsys.readouterr().out.count("written") == 3
    assert pair_agrees(find_notebook("toy/counting", root))
    assert command_line.main(["convert"]) == 0
    assert capsys.readouterr().out.count("agrees") == 3


def test_claims_are_printed_in_each_format(root, capsys):
    for style, mark in [("text", "─"), ("markdown", "| --- |"), ("json", '"laptop": "not run"')]:
        assert command_line.main(["claims", "--format", style]) == 0
        printed = capsys.readouterr().out
        assert "gemma2-counting" in printed
        assert mark in printed
        assert "not run" in printed
    assert command_line.main(["claims", "--profile", "smoke", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["verdicts"] == {"smoke": "not run"}
    assert command_line.main(["reproduce-report"]) == 0
    assert "ours now" in capsys.readouterr().out


def test_what_runs_depend_on_is_neither_arm_nor_seed_nor_profile(root):
    counting = find_notebook("toy/counting", root)
    assert knobs_of(counting, "laptop") == {"steps": 5, "scale": 1e-3, "broken": ""}
    assert knobs_of(counting, "smoke")["steps"] == 3


def test_jax_is_not_imported_to_answer(root):
    heavy = "('jax', 'papermill', 'pandas', 'matplotlib', 'jupyter_server')"
    script = (
        "import sys; from matchbook.lab.command_line import main; "
        "code = [main(['plan']), main(['run', 'toy/countin'])]; "
        f"print(code, [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 2] []"


def test_published_notebooks_are_redrawn_byte_for_byte_from_their_records_alone(root):
    """One test for the whole way, since each step of it costs a kernel."""
    counting = find_notebook("toy/counting", root)
    stale = root / "figures" / "records" / "toy" / "counting" / "up-9-0123456789abcdef.json"
    stale.parent.mkdir(parents=True)
    stale.write_text('{"passport": {"profile": "laptop"}}')
    published = matchbook(root, "publish", "toy/counting")
    assert published.returncode == 0, published.stderr
    assert "published 2 records" in published.stdout
    figures = root / "figures"
    records = {path.name for path in stale.parent.iterdir()}
    assert records == used_records(figures / "laptop" / "toy" / "counting")
    assert {name.split("-")[0] for name in records} == {"up", "down"}
    assert not list((root / "runs" / "records").rglob("*.json"))
    assert pair_agrees(counting)
    assert "injected-parameters" not in counting.pair.read_text()
    assert "(1 of 2)" not in counting.pair.read_text()  # replayed, not computed
    assert "toy/counting" in (root / "README.md").read_text()
    assert (figures / "index.html").exists()
    assert prune(counting, "laptop", root) == []

    before = _snapshot(figures) | {"pair": counting.pair.read_bytes()}
    for path in (figures / "laptop").rglob("*"):
        if path.is_file():
            path.unlink()
    counting.pair.unlink()
    (root / "notebooks" / "toy" / "misbehaving.py").unlink()
    # At smoke something else was published once, so its pictures cannot be drawn.
    stale.write_text('{"passport": {"profile": "smoke"}}')
    redrawn = matchbook(root, "figures")
    stale.unlink()
    assert _snapshot(figures) | {"pair": counting.pair.read_bytes()} == before
    assert pair_agrees(find_notebook("00_overview", root))
    lines = redrawn.stdout.splitlines()
    assert sorted(lines[:2]) == ["toy/counting (laptop): redrawn", "toy/counting (smoke): failed"]
    assert lines[2] == "00_overview (laptop): redrawn"
    assert redrawn.returncode == 1
    assert "of toy/counting at smoke" in redrawn.stderr
    assert "no record of " in redrawn.stderr
