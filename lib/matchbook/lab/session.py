"""Where a run reads and writes: the checkout's root, the runs folder, what may be replayed.

Everything the runner wants a notebook to know travels in one environment variable,
`MATCHBOOK_SESSION` (JSON); without it a notebook opened by hand behaves as its reader expects.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

VARIABLE = "MATCHBOOK_SESSION"
Source = Literal["own", "published"]
SOURCES: tuple[Source, ...] = ("own", "published")
_FIELDS = ("root", "runs", "figures", "replay", "only", "fresh", "recorded", "batch")


@dataclass(frozen=True, kw_only=True)
class Session:
    """How this process runs its notebook; made by `session()`, never by a notebook.

    Attributes:
        root: the checkout: it holds `pyproject.toml` and `notebooks/`.
        runs: where new records, artifacts and checkpoints go; ignored by git.
        figures: where pictures and their numbers go.
        replay: where recorded runs are looked for, in this order.
        only: the single (arm, seed) to compute, or None for all.
        fresh: compute even what is recorded.
        recorded: refuse to compute: a run without a record is an error.
        batch: no reader is watching: no widgets, progress as plain lines.
    """

    root: Path
    runs: Path
    figures: Path
    replay: tuple[Source, ...] = SOURCES
    only: tuple[str, int] | None = None
    fresh: bool = False
    recorded: bool = False
    batch: bool = False

    def records(self, source: Source, experiment: str) -> Path:
        """The folder that holds the records of `experiment`, own or published."""
        top = self.runs if source == "own" else self.root / "figures"
        return top / "records" / experiment


def session() -> Session:
    """The session of this process, read from `MATCHBOOK_SESSION` at each call.

    Raises:
        ValueError: the variable is not a JSON object, or a field is unknown or malformed.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        given = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{VARIABLE} is not JSON: {error}") from None
    if not isinstance(given, dict) or (unknown := sorted(set(given) - set(_FIELDS))):
        came = f"unknown fields {unknown}" if isinstance(given, dict) else repr(given)
        raise ValueError(
            f"{VARIABLE} is a JSON object with fields {', '.join(_FIELDS)}; got {came}"
        )
    root = Path(given["root"]).resolve() if given.get("root") else find_root()
    runs = root / given.get("runs", "runs")  # joining keeps an absolute path as it is
    return Session(
        root=root,
        runs=runs,
        figures=root / given["figures"] if given.get("figures") else runs / "figures",
        replay=_replay(given.get("replay", list(SOURCES))),
        only=_only(given.get("only")),
        fresh=_flag(given, "fresh"),
        recorded=_flag(given, "recorded"),
        batch=_flag(given, "batch"),
    )


def find_root() -> Path:
    """The checkout around the working directory, else around this package, else the directory."""
    here = Path.cwd()
    for start in (here, Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if _is_checkout(folder):
                return folder
    return here


@cache
def _is_checkout(folder: Path) -> bool:
    project = folder / "pyproject.toml"
    if not project.is_file() or not (folder / "notebooks").is_dir():
        return False
    try:
        return tomllib.loads(project.read_text()).get("project", {}).get("name") == "matchbook"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False


def _replay(value: Any) -> tuple[Source, ...]:
    if not isinstance(value, list) or any(source not in SOURCES for source in value):
        raise ValueError(f"{VARIABLE}: replay is a list among {list(SOURCES)}; got {value!r}")
    return tuple(value)


def _only(value: Any) -> tuple[str, int] | None:
    if value is None:
        return None
    if isinstance(value, dict) and set(value) == {"arm", "seed"}:
        arm, seed = value["arm"], value["seed"]
        if isinstance(arm, str) and type(seed) is int and seed >= 0:
            return arm, seed
    raise ValueError(f'{VARIABLE}: only is {{"arm": name, "seed": number}} or null; got {value!r}')


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{VARIABLE}: {name} is true or false; got {value!r}")
    return value
