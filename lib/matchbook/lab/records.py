"""Records: one JSON file for each run (one arm, one seed), small enough to be committed.

A record is found by its key, a hash of what the run depends on: experiment, version, arm, seed,
parameters, data. Unusual: numbers that are not finite are written as strings, so that a file is
plain JSON, and each file carries a digest of its results, so that none is edited unseen.
"""

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = 1
MAX_BYTES = 100_000
Curve = tuple[Any, Any]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_FIELDS = {
    "schema": int, "experiment": str, "version": int, "arm": str, "seed": int, "params": dict,
    "data": str | None, "key": str, "numbers": dict, "curves": dict, "digest": str,
    "passport": dict,
}  # fmt: skip


class DamagedRecord(ValueError):
    """A record file that cannot be trusted; the message names the file and the reason."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a run depends on, and thus its key. The profile is no part of it: only its values are.

    Raises:
        ValueError: a name that no file name can hold, or a parameter that is not a JSON scalar
            or a list of them; names the parameter.
    """

    experiment: str
    version: int
    arm: str
    seed: int
    params: Mapping[str, Any]
    data: str | None = None

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.experiment):
            raise ValueError(
                f"an experiment is named like its notebook, room/name; got {self.experiment!r}"
            )
        check_name(self.arm)
        object.__setattr__(self, "params", {k: plain(v, k) for k, v in self.params.items()})

    @property
    def key(self) -> str:
        """16 hexadecimal digits; the order in which parameters are given does not matter."""
        return digest(
            [self.experiment, self.version, self.arm, self.seed, dict(self.params), self.data]
        )

    @property
    def file_name(self) -> str:
        """`<arm>-<seed>-<key>.json`"""
        return f"{self.arm}-{self.seed}-{self.key}.json"


@dataclass(frozen=True, kw_only=True)
class Record(Identity):
    """One finished run: its identity, its results, and the passport that says how it was made.

    Attributes:
        numbers: name -> float.
        curves: name -> (steps [T], values [T]); integer steps stay integers.
        passport: see `passport`; not a part of the results, two equal runs differ in it.
    """

    numbers: Mapping[str, float]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    passport: Mapping[str, Any] = field(default_factory=dict)

    def results(self) -> dict[str, Any]:
        """Everything but the passport, as JSON holds it: equal for two runs that agree exactly."""
        return {
            "schema": SCHEMA,
            "experiment": self.experiment,
            "version": self.version,
            "arm": self.arm,
            "seed": self.seed,
            "params": dict(self.params),
            "data": self.data,
            "key": self.key,
            "numbers": {name: _encode(value) for name, value in self.numbers.items()},
            "curves": {
                name: {
                    "steps": [_encode(step) for step in np.asarray(steps).tolist()],
                    "values": [_encode(v) for v in np.asarray(values, np.float64).tolist()],
                }
                for name, (steps, values) in self.curves.items()
            },
        }

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, shortest exact floats, one line for each curve.

        Raises:
            ValueError: the file would pass 100 kB; names the biggest curve.
        """
        results = self.results()
        content = {**results, "digest": digest(results), "passport": dict(self.passport)}
        text = _layout(content)
        if len(text.encode()) > MAX_BYTES:
            raise ValueError(_too_big(text, results["curves"], self.file_name))
        return text


def write_record(record: Record, folder: Path) -> Path:
    """Write `<arm>-<seed>-<key>.json` in `folder`, whole or not at all, also if killed."""
    path = folder / record.file_name
    write_text(path, record.to_json())
    return path


def read_record(path: Path) -> Record:
    """Read a record and check it against itself.

    Raises:
        DamagedRecord: not JSON, a field missing or of a wrong type, results that do not match
            their digest, or a key that does not match the identity.
    """
    try:
        content = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedRecord(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DamagedRecord(f"{path} holds no JSON object")
    if content.get("schema") != SCHEMA:
        raise DamagedRecord(f"{path}: schema {SCHEMA} expected, got {content.get('schema')!r}")
    for name, kind in _FIELDS.items():
        if not isinstance(content.get(name), kind) or (name != "data" and name not in content):
            raise DamagedRecord(f"{path}: field {name!r} is missing or of a wrong type")
    stated = content["digest"]
    if digest({k: v for k, v in content.items() if k not in ("digest", "passport")}) != stated:
        raise DamagedRecord(f"{path}: its results do not match their digest {stated}")
    try:
        record = Record(
            **{name: content[name] for name in ("experiment", "version", "arm", "seed")},
            params=content["params"],
            data=content["data"],
            numbers={name: float(value) for name, value in content["numbers"].items()},
            curves={
                name: (_steps(curve["steps"]), np.array(curve["values"], np.float64))
                for name, curve in content["curves"].items()
            },
            passport=content["passport"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedRecord(f"{path}: {error}") from None
    if record.key != content["key"] or record.file_name != path.name:
        raise DamagedRecord(f"{path}: by its content it is {record.file_name}")
    return record


def check_name(name: str) -> str:
    """`name`, if it can be a part of a file name as it is; raises ValueError otherwise."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a name is made of letters, digits and _.+=-; got {name!r}")
    return name


def plain(value: Any, name: str) -> Any:
    """`value` as JSON gives it back: a scalar or a list of them, nested lists too.

    Raises:
        ValueError: anything else, naming the parameter `name`.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    raise ValueError(
        f"parameter {name!r} is a bool, int, finite float, str, None or a list of these, so that a "
        f"record can be found by it; got {value!r} of type {type(value).__name__}"
    )


def digest(value: Any) -> str:
    """16 hexadecimal digits of SHA-256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` at once: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _encode(value: float | int) -> float | int | str:
    return value if math.isfinite(value) else str(value)  # 'nan', 'inf', '-inf': float() reads them


def _steps(values: list[Any]) -> np.ndarray:
    whole = all(type(value) is int for value in values)
    return np.array(values, np.int64 if whole else np.float64)


def _layout(content: Mapping[str, Any]) -> str:
    """Two levels of JSON on lines of their own, deeper ones compact: readable, and small diffs."""

    def lines(value: Any, depth: int) -> str:
        if not isinstance(value, dict) or not value or depth > 2:
            return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        pad = " " * depth
        rows = (f"{pad} {json.dumps(k)}: {lines(value[k], depth + 1)}" for k in sorted(value))
        return "{\n" + ",\n".join(rows) + f"\n{pad}}}"

    return lines(dict(content), 0) + "\n"


def _too_big(text: str, curves: Mapping[str, Any], file_name: str) -> str:
    sizes = {name: len(json.dumps(curve)) for name, curve in curves.items()}
    biggest = max(sizes, key=lambda name: sizes[name], default=None)
    blame = (
        f"its biggest curve is {biggest!r} with {len(curves[biggest]['values'])} points "
        f"({sizes[biggest]:,} bytes): log less often, or keep fewer points"
        if biggest is not None
        else "keep fewer numbers"
    )
    return f"record {file_name} has {len(text.encode()):,} bytes, at most {MAX_BYTES:,}; {blame}"
