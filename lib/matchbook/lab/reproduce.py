"""`make reproduce`: everything computed afresh through Snakemake, then compared with the published.

An interrupted one continues where it stopped; a finished one, or one whose code has changed since,
starts afresh. Unusual: published records are never read while computing, only for the final table.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from matchbook.lab.claims import comparison, comparison_table
from matchbook.lab.notebook import all_notebooks
from matchbook.lab.passport import library_digest
from matchbook.lab.planning import plan

_BYTES_PER_JOB = 2 * 2**30  # a kernel with JAX and a small model
_MANY_JOBS = 16  # at once, from which on each run is one: it imports and compiles for itself


def reproduce(root: Path, profile: str, *, keep: bool = False, split: bool | None = None) -> int:
    """Runs every notebook at `profile` into `<root>/runs/reproduce/<profile>/`; prints the table.

    Args:
        root: the checkout.
        profile: a column of the notebooks' sizes.
        keep: go on with what a finished reproduction left: compute what is missing, such as an
            added seed.
        split: a job is one run, not one notebook; None: where this machine does many at once.
            Where it does not, notebooks with runs of minutes are split nevertheless.

    Returns:
        0, or 1 where a job failed; all others were run nevertheless.

    Raises:
        UsageError: a profile that some notebook does not have; nothing is run.
    """
    plan(all_notebooks(root), profile)
    started = time.monotonic()
    runs = root / "runs" / "reproduce" / profile
    runs.parent.mkdir(parents=True, exist_ok=True)
    with _alone(runs.with_suffix(".lock")) as lock:
        code, finished = runs / "code", runs / "finished"
        digest = code_digest(root)
        changed = code.exists() and code.read_text() != digest
        if runs.exists() and not keep and (finished.exists() or changed):
            why = "code has changed" if changed else "the last one was finished"
            print(f"{runs}: starting afresh, as {why}", flush=True)
            shutil.rmtree(runs)
        runs.mkdir(exist_ok=True)
        finished.unlink(missing_ok=True)
        code.write_text(digest)
        if split is None:
            split = profile != "smoke" and jobs_at_once(profile) >= _MANY_JOBS
        failed = _snakemake(root, profile, lock, split)
        print(f"\n{report(root, profile)}", flush=True)
        minutes = (time.monotonic() - started) / 60
        if failed:
            print(f"\nsome jobs failed (above); the same command goes on ({minutes:.1f} min)")
            return 1
        finished.touch()
    print(f"\nreproduced {profile} in {minutes:.1f} min; pictures: {runs / 'figures/index.html'}")
    return 0


@contextmanager
def _alone(path: Path) -> Generator[IO[str]]:
    """One at a time; a lock of the system's, which no killed process leaves behind."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another reproduction is at work here: waiting for its end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _snakemake(root: Path, profile: str, lock: IO[str], split: bool) -> int:
    """Runs the workflow; its process holds the lock too, should this one be killed."""
    command = [
        *(sys.executable, "-m", "snakemake"),
        *("--snakefile", str(root / "Snakefile")),
        *("--workflow-profile", str(root / "env" / "profiles" / "local")),
        *("--cores", str(jobs_at_once(profile))),
        *("--config", f"profile={profile}", f"split={split}"),
        "--nolock",  # Snakemake's own would have to be removed by hand after a kill
    ]
    with subprocess.Popen(command, cwd=root, pass_fds=[lock.fileno()]) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # it has heard Ctrl-C too, and stops its jobs
            process.wait()
            raise


def report(root: Path, profile: str) -> str:
    """The table of ours now, published and paper, and what does not agree, for a terminal."""
    rows = comparison(root, root / "runs" / "reproduce" / profile / "figures", profile)
    if not rows:
        return "no claim is tested yet"
    differing = [row for row in rows if row.agrees == "no"]
    missing = [row for row in rows if row.failed and row not in differing]
    agreeing = sum(row.agrees == "yes" for row in rows)
    lines = [
        comparison_table(rows),
        "",
        f"{len(rows)} numbers: {agreeing} agree with the published ones, {len(differing)} differ, "
        f"{len(missing)} were not made now; the others are not published yet",
    ]
    return "\n".join(lines)


def jobs_at_once(profile: str) -> int:
    """One job a core, as far as memory goes; on an accelerator one after the other."""
    if profile in ("gpu", "paper"):
        return 1
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, memory // _BYTES_PER_JOB))


def code_digest(root: Path) -> str:
    """Digest of the library, the notebooks and the lock file."""
    hasher = hashlib.sha256(library_digest().encode())
    lock = root / "uv.lock"
    for path in [*(n.path for n in all_notebooks(root)), *([lock] if lock.exists() else [])]:
        hasher.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()
