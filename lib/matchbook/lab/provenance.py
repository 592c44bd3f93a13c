"""Where a picture or a table of numbers comes from: the passports of its records, folded into one.

Unusual: nothing here depends on when, where or how often something is drawn. Only the records
speak, so that redrawing from the same records writes the same bytes on any day and any machine.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matchbook.lab.records import Record, digest, write_text

__all__ = ["fold", "provenance", "write_passport"]

_SUMMED = ("wall_seconds", "compile_seconds", "resumed")
_HIGHEST = ("peak_host_bytes", "peak_device_bytes")


def provenance(records: Sequence[Record]) -> dict[str, Any]:
    """Which records something was made from, and how those were made.

    Returns:
        `records`: their file names without ending, sorted; `digest`: of their results; `made_by`:
        their passports, see `fold`.
    """
    named = {record.file_name.removesuffix(".json"): record for record in records}
    passports = [named[name].passport for name in sorted(named)]
    return {
        "records": sorted(named),
        "digest": digest([named[name].results() for name in sorted(named)]),
        "made_by": fold(passports),
    }


def fold(passports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One passport for several: every field that any has.

    Seconds are summed, of memory the highest is kept, and of anything else the one value that all
    share, or a list of the different ones.
    """
    fields = dict.fromkeys(field for passport in passports for field in passport)
    return {
        field: _fold(field, [passport.get(field) for passport in passports]) for field in fields
    }


def write_passport(path: Path, passport: Mapping[str, Any]) -> None:
    """Write a passport as JSON: the same bytes for the same content."""
    text = json.dumps(passport, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _fold(field: str, values: list[Any]) -> Any:
    known = [value for value in values if value is not None]
    if field in _SUMMED:
        return round(sum(known), 3)
    if field in _HIGHEST:
        return max(known, default=None)
    different = {json.dumps(value, sort_keys=True): value for value in values}
    return values[0] if len(different) == 1 else [different[text] for text in sorted(different)]
