"""A notebook's numbers: what it hands to the ledger, one file for each notebook and profile.

`numbers.csv` has the columns key, value, low, high, one row a number in the order given. Unusual:
every value is written so that reading it back gives the very same number (shortest round-trip
floats, integers without a point, true, false, quoted text), because exact claims are decided from
this file and from nothing else.
"""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from matchbook.lab.provenance import provenance, write_passport
from matchbook.lab.records import Record, write_text

__all__ = ["FILE", "Number", "as_number", "read_numbers", "write_numbers"]

FILE = "numbers.csv"
COLUMNS = ("key", "value", "low", "high")
KEY = re.compile(r"[^\s,\"']+")

Value = bool | int | float | str


class Number(NamedTuple):
    """One value with its interval; what has none, like text, stands there three times."""

    value: Value
    low: Value
    high: Value

    @property
    def interval(self) -> tuple[int | float, int | float] | None:
        """Both ends, or None for true, false and text."""
        ends = tuple(end for end in (self.low, self.high) if not isinstance(end, str | bool))
        return (ends[0], ends[1]) if len(ends) == 2 else None

    def __str__(self) -> str:
        if self.low == self.high or self.value != self.value:
            return show(self.value)
        return f"{show(self.value)} [{show(self.low)}, {show(self.high)}]"


def show(value: Value) -> str:
    """A value for people: booleans as in TOML, integers with separators, others to six digits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str):
        return value
    whole = value.is_integer() and abs(value) < 2**53
    return f"{value + 0.0:,.0f}" if whole else f"{value:.6g}"  # + 0.0: there is no minus nothing


def as_number(key: str, value: Any) -> Number:
    """A plain value, a 0-d array, or an interval (anything with `value`, `low`, `high`).

    Raises:
        ValueError: it is none of these, or the interval does not hold its value; names the key.
    """
    if all(hasattr(value, name) for name in ("value", "low", "high")):
        number = Number(*(_plain(key, getattr(value, name)) for name in ("value", "low", "high")))
        bounds = [float(part) for part in number if not isinstance(part, str)]
        if len(bounds) < 3:
            raise ValueError(f"number {key!r}: an interval holds numbers, got {number}")
        if not any(map(math.isnan, bounds)) and not bounds[1] <= bounds[0] <= bounds[2]:
            raise ValueError(
                f"number {key!r}: value {bounds[0]} lies outside its interval {bounds[1:]}"
            )
        return number
    plain = _plain(key, value)
    return Number(plain, plain, plain)


def _plain(key: str, value: Any) -> Value:
    """A Python bool, int, float or str out of whatever scalar came."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"number {key!r}: expected a number, true or false, text, or an interval; got "
        f"{type(value).__name__}. Of an array, report the entries under one key each"
    )


def write_numbers(
    folder: Path, mapping: Mapping[str, Any], *, records: Sequence[Record]
) -> pd.DataFrame:
    """Write `numbers.csv` and its passport `numbers.json`; return the table for display.

    Args:
        folder: `<figures>/<profile>/<notebook>`, made if missing.
        mapping: key -> number, boolean, text or interval. NaN and infinities are kept as such: a
            claim on NaN is undecided.
        records: the run records that the numbers were computed from.

    Raises:
        ValueError: a key holds a blank, a comma or a quote, or a value is none of the above.
    """
    numbers = {}
    for key, value in mapping.items():
        if not KEY.fullmatch(key):
            raise ValueError(
                f"number {key!r}: a key has no blanks, commas or quotes, e.g. 'gap.loss'"
            )
        numbers[key] = as_number(key, value)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key, number in numbers.items():
        writer.writerow([key, *map(_encode, number)])
    folder = Path(folder)
    write_text(folder / FILE, text.getvalue())
    write_passport(folder / "numbers.json", provenance(records))
    table = [(key, *map(show, number)) for key, number in numbers.items()]
    return pd.DataFrame(table, columns=list(COLUMNS)).set_index("key")


def read_numbers(folder: Path) -> dict[str, Number]:
    """The numbers of `folder`, exactly as they were written.

    Raises:
        FileNotFoundError: there is no `numbers.csv`.
        ValueError: the file is damaged, or a key stands in it twice; names file and line.
    """
    path = Path(folder) / FILE
    numbers: dict[str, Number] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != COLUMNS:
            raise ValueError(f"{path}: the first line must be {','.join(COLUMNS)}")
        for line, row in enumerate(rows, start=2):
            try:
                key, *values = row
                if key in numbers:
                    raise ValueError(f"{key!r} stands here a second time")
                numbers[key] = Number(*map(_decode, values))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {line}: {error}") from error
    return numbers


def _encode(value: Value) -> str:
    """JSON, except that NaN and infinities are written as Python reads them."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _decode(text: str) -> Value:
    return float(text) if text in {"nan", "inf", "-inf"} else json.loads(text)
