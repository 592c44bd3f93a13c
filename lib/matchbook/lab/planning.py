"""What there is to run: notebooks x arms x seeds as jobs, and what each notebook once took.

Unusual: minutes and devices are read from the passports of published records, so that nobody has
to keep them up to date.
"""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matchbook.lab.notebook import Notebook, all_notebooks
from matchbook.lab.parameters import UsageError, Value
from matchbook.lab.profiles import PROFILES
from matchbook.lab.provenance import fold

_LONG = 60.0  # seconds of a run, beside which importing and compiling for itself are little


@dataclass(frozen=True, order=True)
class Job:
    """One run: one arm with one seed of one notebook."""

    notebook: str
    arm: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a notebook's published runs took, together, and on what."""

    minutes: float
    device: str

    def __str__(self) -> str:
        return f"{self.minutes:.1f} min on {self.device}"


def plan(
    notebooks: Iterable[Notebook], profile: str, given: Mapping[str, Value] | None = None
) -> list[Job]:
    """Every run of the notebooks at a profile; `given` parameters win over the profile's.

    Raises:
        UsageError: a notebook without this profile, or whose runs cannot be told from its source.
    """
    jobs = []
    for notebook in notebooks:
        notebook.parameters.check_profile(profile)
        arms, seeds = notebook.runs(profile, given or {})
        jobs += [Job(notebook.name, arm, seed) for arm in arms for seed in range(seeds)]
    return jobs


def plan_json(jobs: Iterable[Job]) -> str:
    return json.dumps([asdict(job) for job in jobs], indent=1)


def knobs_of(notebook: Notebook, profile: str) -> dict[str, Value]:
    """What a notebook's runs depend on, besides arm and seed: every other parameter's value."""
    cell = notebook.parameters
    names = [name for name in cell.parameters if name not in ("profile", "arms", "seeds")]
    return {name: cell.resolve(name, profile, {}) for name in names}


def published_profiles(notebook: Notebook, root: Path) -> list[str]:
    """The profiles with committed numbers, or, should these be deleted, with committed records."""
    found = {made_at(path) for path in (root / "figures/records" / notebook.name).glob("*.json")}
    for profile in PROFILES:
        if (root / "figures" / profile / notebook.name / "numbers.csv").exists():
            found.add(profile)
    return [profile for profile in PROFILES if profile in found]


def made_at(record: Path) -> str | None:
    """The profile at which a record was made; others may use it, too."""
    return json.loads(record.read_text(encoding="utf-8"))["passport"].get("profile")


def cost(notebook: Notebook, profile: str, root: Path) -> Cost | None:
    """What a notebook's published runs took, from their passports; None where there are none."""
    made_by = fold(_passports(notebook, profile, root))
    if "wall_seconds" not in made_by:
        return None
    return Cost(minutes=made_by["wall_seconds"] / 60, device=_device(made_by))


def has_long_runs(notebook: Notebook, profile: str, root: Path) -> bool:
    """Whether published runs took a minute or more, typically: worth a job each on any machine."""
    passports = _passports(notebook, profile, root)
    took = [passport["wall_seconds"] for passport in passports if "wall_seconds" in passport]
    return bool(took) and statistics.median(took) >= _LONG


def _passports(notebook: Notebook, profile: str, root: Path) -> list[dict[str, Any]]:
    paths = sorted((root / "figures" / "records" / notebook.name).glob("*.json"))
    passports = [json.loads(path.read_text(encoding="utf-8"))["passport"] for path in paths]
    return [passport for passport in passports if passport.get("profile") == profile]


def listing(root: Path) -> str:
    """Every notebook with its question and what it took, profile by profile, for a terminal."""
    lines = []
    for notebook in all_notebooks(root):
        costs = {p: cost(notebook, p, root) for p in published_profiles(notebook, root)}
        took = [f"{profile}: {spent}" for profile, spent in costs.items() if spent]
        try:
            runs = notebook.runs("laptop", {}) != ([], 0)
        except UsageError as error:
            took = [f"broken: {error}"]
        else:
            took = took or ["not published yet" if runs else "seconds, runs nothing"]
        lines += [notebook.name, f"    {notebook.title}", *(f"    {line}" for line in took)]
    return "\n".join(lines)


def _device(made_by: Mapping[str, Any]) -> str:
    kinds = _several(made_by.get("device_kind", "unknown device"))
    if _several(made_by.get("device_platform")) == ["cpu"]:
        return (
            "/".join(f"{count}" for count in _several(made_by.get("cpu_count", "?"))) + " CPU cores"
        )
    counts = _several(made_by.get("device_count", 1))
    return " or ".join(f"{max(counts)} x {kind}" for kind in kinds)


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
