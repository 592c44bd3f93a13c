"""The README is true: its commands exist and run, its paths are there, its tables are current."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from matchbook.lab.readme import readme_table, timings_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))
COMMANDS = [line.split("#")[0].strip() for line in BLOCKS.splitlines() if line.strip()]
MAKE_TARGETS = sorted({*re.findall(r"\bmake ([a-z]+)", README)} - {"setup"})


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("matchbook")])
def test_matchbook_commands_run(command, tmp_path):
    program, *arguments = shlex.split(command)
    runs = ["--runs", str(tmp_path)] if arguments[0] == "run" else []
    line = [sys.executable, "-m", f"{program}.lab.command_line", *arguments, *runs]
    run = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


def test_every_command_is_of_a_kind_that_is_run():
    """What is no matchbook command is a make target: they call what the other tests call."""
    assert all(command.split()[0] in {"make", "matchbook"} for command in COMMANDS)


@pytest.mark.parametrize("target", MAKE_TARGETS)
def test_make_targets_exist_and_their_programs_are_installed(target):
    dry = ["make", "-n", target]
    planned = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    programs = set(re.findall(r"\.venv/bin:\$PATH\" (?:\w+='[^']*' )?([\w-]+)", planned))
    assert programs
    assert all((ROOT / ".venv" / "bin" / program).exists() for program in programs)


def test_linked_files_exist():
    local = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


@pytest.mark.parametrize(("name", "table"), [("ledger", readme_table), ("timings", timings_table)])
def test_generated_tables_are_current(name, table):
    written = README.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
    assert written.strip() == table(ROOT).strip()
