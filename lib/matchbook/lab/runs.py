"""What a measurement returns, and the runs of an experiment as tables and curves.

Unusual: arms may measure different things; a number is given for the arms that have it, but never
for only some of an arm's seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from matchbook.lab.profiles import nearest
from matchbook.lab.records import Curve, Record


@dataclass(frozen=True)
class Measured:
    """What a measurement returns.

    Attributes:
        numbers: name -> number; NaN and infinities are allowed and kept.
        curves: name -> (steps [T], values [T]), T at least 1; `fit`'s history fits as it is.
        data: digest of the data that was found and used, for the passport. It is no part of a
            record's key: a run on the text of one machine replays on another.

    Raises:
        ValueError: a name is no text, a number no scalar, a curve not two arrays of one length.
    """

    numbers: Mapping[str, Any]
    curves: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", {k: _number(k, v) for k, v in self.numbers.items()})
        object.__setattr__(self, "curves", {k: _curve(k, v) for k, v in self.curves.items()})


class Runs:
    """The records of an experiment, arms by seeds."""

    def __init__(self, records: Mapping[str, Sequence[Record]]):
        self._arms = {arm: tuple(of_arm) for arm, of_arm in records.items()}

    @cached_property
    def records(self) -> list[Record]:
        """All records, arm by arm, seeds in order."""
        return [record for of_arm in self._arms.values() for record in of_arm]

    def numbers(self, name: str) -> dict[str, np.ndarray]:
        """The number `name`: arm -> float64 [seeds], for the arms that measured it.

        Raises:
            KeyError: no arm has it, or only some seeds of an arm; lists what there is.
        """
        found = self._pick("numbers", name)
        return {arm: np.array(values, np.float64) for arm, values in found.items()}

    def curve(self, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The curve `name`: arm -> (steps [T], values float64 [seeds, T]).

        Raises:
            KeyError: as for `numbers`.
            ValueError: the seeds of an arm were measured at different steps.
        """
        curves = {}
        for arm, of_arm in self._pick("curves", name).items():
            steps = of_arm[0][0]
            if any(not np.array_equal(steps, other) for other, _ in of_arm):
                raise ValueError(f"curve {name!r}: the seeds of arm {arm!r} differ in their steps")
            curves[arm] = steps, np.stack([values for _, values in of_arm])
        return curves

    def table(self) -> pd.DataFrame:
        """One row a run: arm, seed, and every number; NaN where an arm lacks one."""
        rows = [{"arm": r.arm, "seed": r.seed, **r.numbers} for r in self.records]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        arms = ", ".join(f"{arm} ({len(of_arm)})" for arm, of_arm in self._arms.items())
        return f"{len(self.records)} runs: {arms}"

    def _pick(self, kind: str, name: str) -> dict[str, list[Any]]:
        found = {}
        for arm, of_arm in self._arms.items():
            values = [
                getattr(record, kind)[name] for record in of_arm if name in getattr(record, kind)
            ]
            if values and len(values) < len(of_arm):
                raise KeyError(
                    f"only {len(values)} of {len(of_arm)} seeds of {arm!r} have {name!r}"
                )
            if values:
                found[arm] = values
        if not found:
            known = sorted({known for record in self.records for known in getattr(record, kind)})
            raise KeyError(f"no {name!r} among the {kind} {known}{nearest(name, known)}")
        return found


def _number(name: str, value: Any) -> float:
    if not isinstance(name, str) or np.ndim(value) != 0:
        raise ValueError(f"number {name!r} is a scalar with a name; got {value!r}")
    number = float(value)
    if isinstance(value, int) and math.isfinite(number) and int(number) != value:
        raise ValueError(f"number {name!r}: {value} is too large to be exact in a float64")
    return number


def _curve(name: str, curve: Any) -> Curve:
    if not isinstance(name, str) or not isinstance(curve, tuple | list) or len(curve) != 2:
        raise ValueError(f"curve {name!r} is a pair (steps, values) with a name")
    steps, values = (np.asarray(part) for part in curve)
    if steps.ndim != 1 or steps.shape != values.shape or steps.size == 0:
        raise ValueError(
            f"curve {name!r}: steps and values are of one length, at least 1; "
            f"got shapes {steps.shape} and {values.shape}"
        )
    return steps, values.astype(np.float64)
