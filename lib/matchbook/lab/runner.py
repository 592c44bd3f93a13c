"""Runs a notebook as a batch job: one way to `.ipynb`, through papermill, in its own folder.

Unusual: one deadline limits each cell and the whole; a run that was asked for alone stops the
notebook with `RunFinished`, which is success; an executed notebook appears under its name only
when it is complete, also after a failure.
"""

import json
import logging
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matchbook.lab.notebook import (
    Notebook,
    NotebookNode,
    convert,
    normalise,
    read_notebook,
    write_notebook,
)
from matchbook.lab.parameters import UsageError, Value
from matchbook.lab.profiles import nearest
from matchbook.lab.session import SOURCES, VARIABLE, Source

if TYPE_CHECKING:
    from papermill.exceptions import PapermillExecutionError

# Seconds for a whole notebook, unless --timeout says otherwise: several times what one takes.
TIME_LIMITS = {"smoke": 600, "laptop": 8 * 3600, "gpu": 4 * 3600, "paper": 14 * 24 * 3600}
# XLA on a CPU takes its buffers from malloc, step by step, and glibc gives large ones back to the
# system each time: a training step of 36 M parameters spent a fifth of its time on page faults.
_KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",  # others than the main one hand all that is large to mmap
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
}
_START_LIMIT = 180  # seconds for the kernel alone: a cold disk can take a minute to import it
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class RunFailed(RuntimeError):
    """A notebook did not run to its end: exit code 1. The message shows the cell and its error."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a run left behind.

    Attributes:
        notebook: the executed notebook, without times and machine names.
        path: where it lies.
        record: the record of the single run that was asked for, else None.
    """

    notebook: NotebookNode
    path: Path
    record: Path | None = None


def run_notebook(
    notebook: Notebook,
    profile: str,
    given: Mapping[str, Value],
    *,
    root: Path,
    runs: Path,
    figures: Path | None = None,
    replay: tuple[Source, ...] = SOURCES,
    fresh: bool = False,
    recorded: bool = False,
    only: tuple[str, int] | None = None,
    timeout: int | None = None,
    echo: bool = True,
) -> Ran:
    """Executes `notebook` and keeps it under `<runs>/notebooks/<profile>/`.

    Args:
        notebook: its source.
        profile: a column of its sizes.
        given: parameters that win over the profile's, already parsed.
        root: the checkout.
        runs: new records, artifacts, the compile cache and the executed notebook go here.
        figures: pictures go here; `<runs>/figures` where None.
        replay: where recorded runs are looked for.
        fresh: compute what is recorded, too.
        recorded: compute nothing; a missing record is a failure that names it.
        only: a single (arm, seed): computes its record and nothing else.
        timeout: seconds for the whole notebook, and thus for each of its cells.
        echo: pass on what the notebook prints.

    Raises:
        UsageError: an unknown profile, arm or seed; nothing is run.
        RunFailed: a cell failed, the time was up or the kernel died; the executed notebook is kept.
    """
    notebook.parameters.check_profile(profile)
    if only is not None:
        _check_only(notebook, profile, given, only)
    kept = runs / "notebooks" / profile / f"{notebook.name}.ipynb"
    if only is not None:
        kept = kept.with_suffix("") / f"{only[0]}-{only[1]}.ipynb"
    environment = _environment(root, runs, figures, replay, fresh, recorded, only)
    limit = TIME_LIMITS[profile] if timeout is None else timeout
    # The committed pair runs with its own defaults, so it holds no injected cell.
    parameters = {"profile": profile, **given} if given or profile != "laptop" else {}
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="matchbook-", ignore_cleanup_errors=True) as folder:
        executed, failure = _execute(
            notebook, parameters, environment, limit, Path(folder), echo=echo
        )
    if executed is None:
        raise RunFailed(f"{notebook.name} ({profile}): {failure}")
    executed = normalise(executed, notebook.node)
    write_notebook(executed, kept)
    error = _error(executed)
    if only is not None and error is not None and error.ename == "RunFinished":
        record = runs / "records" / notebook.name / error.evalue.removeprefix("finished ")
        if record.is_file():
            return Ran(notebook=executed, path=kept, record=record)
        raise RunFailed(f"{notebook.name} ({profile}): finished without its record {record}")
    if failure is not None:
        raise RunFailed(f"{notebook.name} ({profile}): {failure}\nexecuted notebook: {kept}")
    if only is not None:
        raise RunFailed(f"{notebook.name} ({profile}): ended without running arm {only[0]!r}")
    return Ran(notebook=executed, path=kept)


def _execute(
    notebook: Notebook,
    parameters: Mapping[str, Value],
    environment: Mapping[str, str],
    limit: int,
    folder: Path,
    *,
    echo: bool,
) -> tuple[NotebookNode | None, str | None]:
    """The executed notebook as far as it came, and what went wrong."""
    from matchbook.lab.kernel import kernel_manager

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # papermill's own, about its dependencies
        import papermill
        from nbclient.exceptions import CellTimeoutError, DeadKernelError
        from papermill.exceptions import PapermillExecutionError
    for silent in ("papermill", "traitlets", "asyncio"):  # what matters is raised, and told by us
        logging.getLogger(silent).setLevel(logging.CRITICAL)
    deadline = time.monotonic() + limit
    source, output = folder / "source.ipynb", folder / "executed.ipynb"
    convert(notebook, source)
    failure: str | None = None
    with _terminable():
        try:
            papermill.execute_notebook(
                str(source),
                str(output),
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",
                cwd=str(notebook.path.parent),
                progress_bar=False,
                start_timeout=_START_LIMIT,
                stdout_file=sys.stdout if echo else None,
                stderr_file=sys.stderr if echo else None,
                kernel_manager_class=kernel_manager(environment, folder),
                timeout_func=lambda cell: max(1, round(deadline - time.monotonic())),
            )
        except PapermillExecutionError as error:
            failure = _describe(error)
        except CellTimeoutError:
            failure = f"stopped after {limit} seconds; allow more with --timeout"
        except DeadKernelError:
            failure = f"the kernel died; did memory run out?{_last_words(folder)}"
        except RuntimeError as error:  # nbclient's, while the kernel starts
            failure = f"no kernel: {error}{_last_words(folder)}"
    if not output.exists():
        return None, failure
    return read_notebook(output), failure


def _environment(
    root: Path,
    runs: Path,
    figures: Path | None,
    replay: tuple[Source, ...],
    fresh: bool,
    recorded: bool,
    only: tuple[str, int] | None,
) -> dict[str, str]:
    session = {
        "root": str(root),
        "runs": str(runs),
        "figures": str(figures or runs / "figures"),
        "replay": list(replay),
        "only": {"arm": only[0], "seed": only[1]} if only else None,
        "fresh": fresh,
        "recorded": recorded,
        "batch": True,
    }
    return {
        VARIABLE: json.dumps(session),
        # Runs that differ by their seed compile once. With a size limit JAX locks the folder, so
        # that no process reads what another has half written.
        "JAX_COMPILATION_CACHE_DIR": str(runs / "cache"),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(4 * 2**30),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        **_KEEP_MEMORY,
    }


def _check_only(
    notebook: Notebook, profile: str, given: Mapping[str, Value], only: tuple[str, int]
) -> None:
    arms, seeds = notebook.runs(profile, given)
    arm, seed = only
    if arm not in arms:
        known = ", ".join(arms) or "none"
        raise UsageError(f"unknown arm {arm!r}{nearest(arm, arms)}\narms of this notebook: {known}")
    if not 0 <= seed < seeds:
        raise UsageError(f"expected a seed from 0 to {seeds - 1}, got {seed}")


def _error(executed: NotebookNode) -> NotebookNode | None:
    """The error output of the cell that failed."""
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return output
    return None


def _describe(error: "PapermillExecutionError") -> str:
    source = "\n".join(f"    {line}" for line in error.source.splitlines())
    trace = [_ANSI.sub("", line) for line in "\n".join(error.traceback).splitlines()]
    shown = trace if len(trace) <= 60 else ["...", *trace[-60:]]
    ending = f"{error.ename}: {error.evalue}"
    if not any(ending.partition("\n")[0] in line for line in shown):
        shown.append(ending)
    return f"cell [{error.exec_count}] failed:\n\n{source}\n\n" + "\n".join(shown)


def _last_words(folder: Path) -> str:
    """The end of what the kernel's process printed by itself, such as a crash report."""
    log = folder / "kernel.log"
    lines = log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []
    return "".join(f"\n    {line}" for line in lines)


@contextmanager
def _terminable() -> Generator[None]:
    """SIGTERM unwinds like Ctrl-C does, so that the kernel is shut down on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
