"""The rows of `notebooks/claims.toml`: what the papers claim and which of our numbers test it.

The head of that file explains the grammar. Unusual: an unknown field or condition is an error that
names the row and the nearest match, since a misspelt test would otherwise count as no test at all.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matchbook.lab.numbers import show
from matchbook.lab.profiles import nearest

__all__ = ["KINDS", "PAPERS", "Claim", "Test", "load_claims"]

PAPERS = ("gemma2", "bond", "mog")
KINDS = ("exact", "mechanism", "needs-weights", "not-reproducible")
REQUIRED = ("id", "paper", "where", "statement", "kind", "source")
OPTIONAL = ("values", "notebook", "tests")
CONDITIONS = ("equals", "near", "below", "above", "between")


@dataclass(frozen=True, kw_only=True)
class Test:
    """One condition on one number: `bound` is what it compares with, `paper` the paper's number."""

    __test__ = False  # not a pytest class, whatever its name

    number: str
    condition: str
    bound: Any
    within: int | float = 0.0
    paper: Any = None

    def __str__(self) -> str:
        match self.condition:
            case "equals":
                return show(self.bound)
            case "near":
                return f"{show(self.bound)} ± {show(self.within)}"
            case "below":
                return f"< {show(self.bound)}"
            case "above":
                return f"> {show(self.bound)}"
        return f"{show(self.bound[0])} to {show(self.bound[1])}"

    @property
    def expected(self) -> str:
        """The paper's number where the row gives one, otherwise the condition."""
        return str(self) if self.paper is None else show(self.paper)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row of `claims.toml`; its head explains the fields."""

    id: str
    paper: str
    where: str
    statement: str
    kind: str
    source: str
    values: tuple[Mapping[str, Any], ...] = ()
    notebook: str | None = None
    tests: tuple[Test, ...] = ()


def load_claims(path: Path) -> tuple[Claim, ...]:
    """Every row of `claims.toml`, checked.

    Raises:
        ValueError: a row lacks a field, has one that is unknown, or repeats an id; names row, field
            and the nearest match.
    """
    document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    if set(document) != {"claim"}:
        raise ValueError(
            f"{path}: expected [[claim]] rows only, got {sorted(set(document) - {'claim'})}"
        )
    claims = tuple(_claim(row, position) for position, row in enumerate(document["claim"], start=1))
    twice = [name for name, count in Counter(claim.id for claim in claims).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: ids must be unique, these are not: {', '.join(twice)}")
    return claims


def _claim(row: Mapping[str, Any], position: int) -> Claim:
    name = f"claim {row.get('id', f'in row {position}')!r}"
    for field in row:
        _one_of(f"{name}: field", field, REQUIRED + OPTIONAL)
    missing = [field for field in REQUIRED if not row.get(field)]
    if missing:
        raise ValueError(f"{name}: lacks {', '.join(missing)}")
    for field in (*REQUIRED, "notebook"):
        if not isinstance(row.get(field, ""), str):
            raise ValueError(f"{name}: {field} must be text, got {row[field]!r}")
    _one_of(f"{name}: paper", row["paper"], PAPERS)
    _one_of(f"{name}: kind", row["kind"], KINDS)
    if not row["id"].startswith(row["paper"] + "-"):
        raise ValueError(f"{name}: an id begins with its paper, here '{row['paper']}-'")
    tests = row.get("tests", [])
    if tests and "notebook" not in row:
        raise ValueError(f"{name}: has tests but names no notebook whose numbers they look at")
    tables = row.get("values", [])
    if not all(isinstance(item, dict) for item in (*tables, *tests)):
        raise ValueError(f"{name}: values and tests are arrays of inline tables")
    required = {field: row[field] for field in REQUIRED}
    return Claim(
        **required,
        values=tuple(tables),
        notebook=row.get("notebook"),
        tests=tuple(_test(test, name) for test in tests),
    )


def _test(row: Mapping[str, Any], name: str) -> Test:
    for field in row:
        _one_of(f"{name}: test field", field, (*CONDITIONS, "number", "within", "paper"))
    if not isinstance(row.get("number"), str):
        raise ValueError(f"{name}: a test names its number as text, got {row}")
    name = f"{name}, test of {row['number']!r}"
    conditions = [condition for condition in CONDITIONS if condition in row]
    if len(conditions) != 1:
        raise ValueError(
            f"{name}: expected one of {', '.join(CONDITIONS)}; got {conditions or 'none'}"
        )
    condition, bound = conditions[0], row[conditions[0]]
    if (condition == "near") != ("within" in row):
        raise ValueError(f"{name}: `near` and `within` belong together")
    within = row.get("within", 0.0)
    if condition == "between" and not isinstance(bound, list):
        raise ValueError(f"{name}: `between` is [low, high], got {bound!r}")
    numbers = {"between": bound, "equals": []}.get(condition, [bound, within])
    if any(isinstance(x, bool) or not isinstance(x, int | float) or math.isnan(x) for x in numbers):
        raise ValueError(f"{name}: `{condition}` compares with numbers, got {bound!r}")
    if condition == "between" and (len(bound) != 2 or bound[0] > bound[1]):
        raise ValueError(f"{name}: `between` is [low, high], got {bound}")
    if condition == "equals" and not isinstance(bound, bool | int | float | str):
        raise ValueError(
            f"{name}: `equals` compares with a number, true, false or text, got {bound!r}"
        )
    if within < 0:
        raise ValueError(f"{name}: `within` cannot be negative, got {within}")
    return Test(
        number=row["number"],
        condition=condition,
        bound=bound,
        within=within,
        paper=row.get("paper"),
    )


def _one_of(what: str, got: str, valid: Sequence[str]) -> None:
    if got not in valid:
        known = ", ".join(valid)
        raise ValueError(f"{what} {got!r} is none of {known}{nearest(str(got), valid)}")
