"""Sliders, where a reader is there to move them.

Unusual: in a batch run, and where ipywidgets is not installed, nothing appears at all: a picture
that a page needs is drawn by `experiment.figure`, and a slider only ever adds to it.
"""

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from matchbook.lab.session import session

__all__ = ["interactive"]


def interactive(function: Callable[..., Any], **ranges: Any) -> None:
    """Call `function` with what the reader sets, and show what it returns.

    Args:
        function: draws with `lab.subplots` and returns the figure, or any other thing to display.
        ranges: one for each argument, as `ipywidgets.interact` takes them: `(1, 64)` or
            `(0.0, 1.0, 0.1)` is a slider, a list a menu, True or False a tick box; or a widget.

    Raises:
        ValueError: no range is given: there would be nothing to move.
    """
    if not ranges:
        raise ValueError("interactive(function, name=range, ...) needs at least one range")
    if not _live():
        return
    import ipywidgets
    from IPython.display import display

    def show(**values: Any) -> None:
        if (result := function(**values)) is not None:
            display(_picture(result))

    controls = ipywidgets.interactive(show, **ranges)
    for control in controls.children[:-1]:
        if hasattr(control, "continuous_update"):
            control.continuous_update = False  # draw when the slider rests, not all the way
    display(controls)


def _live() -> bool:
    """Whether a reader sits at a kernel that can show widgets."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    at_kernel = shell is not None and getattr(shell, "kernel", None) is not None
    return at_kernel and not session().batch and importlib.util.find_spec("ipywidgets") is not None


def _picture(result: Any) -> Any:
    """A figure as a picture, since `lab.subplots` makes figures that pyplot does not know."""
    from matplotlib.figure import Figure

    if not isinstance(result, Figure):
        return result
    import io

    from IPython.display import Image

    from matchbook.lab.labels import spread_labels

    spread_labels(result)
    file = io.BytesIO()
    result.savefig(file, format="png", dpi=144)
    return Image(file.getvalue(), width=round(result.get_size_inches()[0] * 96))
