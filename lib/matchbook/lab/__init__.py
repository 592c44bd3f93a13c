"""Running and recording: profiles, the training loop, records, figures, statistics.

Everything a notebook needs stands here. Unusual: names are looked up when they are first used, so
that replaying a notebook does not wait for JAX or Orbax to be imported.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matchbook.lab.artifacts import artifact
    from matchbook.lab.experiment import Experiment, RunFinished
    from matchbook.lab.figures import (
        label_lines,
        paper_line,
        paper_point,
        plot_curves,
        save_figure,
        subplots,
    )
    from matchbook.lab.fit import NonFiniteError, fit
    from matchbook.lab.interactive import interactive
    from matchbook.lab.profiles import cross, knobs
    from matchbook.lab.records import Record
    from matchbook.lab.runs import Measured, Runs
    from matchbook.lab.session import Session, session
    from matchbook.lab.statistics import (
        Interval,
        bootstrap_interval,
        iqm,
        mean_interval,
        paired_difference,
        wilson,
    )

_HOMES = {
    "artifacts": ("artifact",),
    "experiment": ("Experiment", "RunFinished"),
    "figures": (
        "label_lines",
        "paper_line",
        "paper_point",
        "plot_curves",
        "save_figure",
        "subplots",
    ),
    "fit": ("NonFiniteError", "fit"),
    "interactive": ("interactive",),
    "profiles": ("cross", "knobs"),
    "records": ("Record",),
    "runs": ("Measured", "Runs"),
    "session": ("Session", "session"),
    "statistics": (
        "Interval",
        "bootstrap_interval",
        "iqm",
        "mean_interval",
        "paired_difference",
        "wilson",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Experiment",
    "Interval",
    "Measured",
    "NonFiniteError",
    "Record",
    "RunFinished",
    "Runs",
    "Session",
    "artifact",
    "bootstrap_interval",
    "cross",
    "fit",
    "interactive",
    "iqm",
    "knobs",
    "label_lines",
    "mean_interval",
    "paired_difference",
    "paper_line",
    "paper_point",
    "plot_curves",
    "save_figure",
    "session",
    "subplots",
    "wilson",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Lab(ModuleType):
    """`fit`, `session` and `interactive` name a function here and the file it lives in.

    Importing a file sets the package's attribute of that name; the function must win.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Lab
