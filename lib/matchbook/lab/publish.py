"""Publishing: own records become committed ones, and everything under `figures/` is redrawn.

`python -m matchbook.lab.publish NOTEBOOK PROFILE` redraws one notebook; `matchbook figures` starts
one such process for each. Unusual: a redraw sees published records only, in a runs folder of its
own, so that what is committed never depends on what happens to lie on this machine.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from matchbook.lab.notebook import Notebook, all_notebooks, find_notebook, write_notebook
from matchbook.lab.planning import made_at, published_profiles
from matchbook.lab.runner import RunFailed, run_notebook

_REDRAW_LIMIT = 300  # seconds; drawing takes a few, so that more means something is computed


def publish(notebook: Notebook, profile: str, root: Path, runs: Path) -> list[Path]:
    """Moves the own records that the notebook uses at `profile` to `figures/`, and redraws them.

    Computes what is not recorded yet. Returns the published records of this profile.

    Raises:
        RunFailed: the notebook failed, or its pictures cannot be drawn from published records.
    """
    run_notebook(notebook, profile, {}, root=root, runs=runs)
    used = used_records(runs / "figures" / profile / notebook.name)
    own, published = (top / "records" / notebook.name for top in (runs, root / "figures"))
    moved = [name for name in used if (own / name).exists()]
    for name in moved:
        published.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(own / name, published / name)
    redraw(notebook, profile, root)
    for name in moved:
        (own / name).unlink()
    prune(notebook, profile, root)
    return [published / name for name in sorted(used)]


def redraw(notebook: Notebook, profile: str, root: Path) -> None:
    """Draws `figures/<profile>/<notebook>/` from published records, and at laptop also the pair.

    Raises:
        RunFailed: a record is missing, or the notebook failed; what was there before is kept.
    """
    runs = root / "runs" / "redraw" / profile
    new, target = runs / "figures", Path(profile) / notebook.name
    shutil.rmtree(new / target, ignore_errors=True)
    ran = run_notebook(
        notebook,
        profile,
        {},
        root=root,
        runs=runs,
        replay=("published",),
        recorded=True,
        timeout=_REDRAW_LIMIT,
        echo=False,
    )
    if (new / target).exists():
        shutil.rmtree(root / "figures" / target, ignore_errors=True)
        shutil.copytree(new / target, root / "figures" / target)
    if profile == "laptop":
        write_notebook(ran.notebook, notebook.pair)


def redraw_all(root: Path, chosen: Sequence[Notebook] = (), profile: str | None = None) -> int:
    """Redraws what is published, two notebooks at a time; prints one line for each.

    Args:
        root: the checkout.
        chosen: these notebooks; all where empty.
        profile: this one; all where None.

    Returns:
        How many failed.
    """
    jobs = [
        (notebook, name)
        for notebook in chosen or all_notebooks(root)
        for name in _redrawable(notebook, root)
        if profile in (None, name)
    ]
    # Notebooks beside the papers' folders show what the others found: they come last.
    first = [job for job in jobs if "/" in job[0].name]
    last = [job for job in jobs if "/" not in job[0].name]
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        return sum(
            sum(pool.map(lambda job: _redraw_apart(*job, root), part)) for part in (first, last)
        )


def prune(notebook: Notebook, profile: str, root: Path) -> list[Path]:
    """Deletes published records that were made at `profile` and that no picture uses any more."""
    used = set()
    for other in published_profiles(notebook, root):
        used |= used_records(root / "figures" / other / notebook.name)
    stale = [
        path
        for path in sorted((root / "figures" / "records" / notebook.name).glob("*.json"))
        if path.name not in used and made_at(path) == profile
    ]
    for path in stale:
        path.unlink()
    return stale


def used_records(figures: Path) -> set[str]:
    """File names of the records that a notebook's pictures and numbers were drawn from."""
    passports = [json.loads(path.read_text(encoding="utf-8")) for path in figures.glob("*.json")]
    return {f"{name}.json" for passport in passports for name in passport["records"]}


def _redrawable(notebook: Notebook, root: Path) -> list[str]:
    """Published profiles; of a notebook that runs nothing, its pair at laptop."""
    return published_profiles(notebook, root) or (
        ["laptop"] if notebook.runs("laptop", {}) == ([], 0) else []
    )


def _redraw_apart(notebook: Notebook, profile: str, root: Path) -> bool:
    """Redraws in a process of its own, whose main thread papermill needs. True where it failed."""
    command = [sys.executable, "-m", "matchbook.lab.publish", notebook.name, profile]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    print(f"{notebook.name} ({profile}): {'failed' if done.returncode else 'redrawn'}", flush=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr, flush=True)
    return done.returncode != 0


if __name__ == "__main__":
    here = Path.cwd()
    try:
        redraw(find_notebook(sys.argv[1], here), sys.argv[2], here)
    except RunFailed as failure:
        sys.exit(str(failure))
