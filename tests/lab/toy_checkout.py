"""A checkout of its own for the tests of runner, command line and Snakefile: toy notebooks only."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
CLAIMS = """
[[claim]]
id = "gemma2-counting"
paper = "gemma2"
where = "nowhere"
statement = "Three steps or five lead somewhere."
kind = "mechanism"
source = "derived"
notebook = "toy/counting"
tests = [{ number = "end.up", above = 0.0 }]
"""
MARKERS = "".join(f"<!-- {n}:begin -->\n<!-- {n}:end -->\n" for n in ("ledger", "timings"))


def make_checkout(folder: Path, notebooks: Iterable[str]) -> Path:
    """A checkout in `folder` with the toy notebooks of these names."""
    root = folder / "checkout"
    for name in notebooks:
        path = root / "notebooks" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE / "notebooks" / f"{name}.py", path)
    (root / "pyproject.toml").write_text('[project]\nname = "matchbook"\n')
    (root / "notebooks" / "claims.toml").write_text(CLAIMS)
    (root / "README.md").write_text(MARKERS)
    shutil.copyfile(REPOSITORY / "Snakefile", root / "Snakefile")
    shutil.copytree(REPOSITORY / "env" / "profiles", root / "env" / "profiles")
    return root


def environment() -> dict[str, str]:
    """This process's environment without what the tests or a session have set in it."""
    left_out = ("MATCHBOOK_SESSION", "JUPYTER_PATH")
    return {name: text for name, text in os.environ.items() if name not in left_out}


def matchbook(root: Path, *arguments: str, **settings) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "matchbook.lab.command_line", *arguments]
    return subprocess.run(
        command, cwd=root, env=environment(), capture_output=True, text=True, **settings
    )


def start_matchbook(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command, started; it prints into a file `printed` of the checkout."""
    command = [sys.executable, "-m", "matchbook.lab.command_line", *arguments]
    with (root / "printed").open("w") as printed:
        return subprocess.Popen(
            command,
            cwd=root,
            env=environment(),
            stdout=printed,
            stderr=subprocess.STDOUT,
            text=True,
        )


def wait_until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    """Waits until `holds()`; fails when it takes too long."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.1)


def is_running(process: int) -> bool:
    """Whether the process lives; one that has ended and was not waited for does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
