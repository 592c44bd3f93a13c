"""Figures: drawn in one look, saved with their numbers and their passport.

A figure is a picture (`.svg`, `.png`), the numbers drawn (`.csv`) and a passport (`.json`).
Unusual: redrawing from the same records writes the same bytes, so pictures have no date, no random
ids and no fonts of the machine; and no picture passes 80 kB, since notebooks are committed with it.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from scipy import special

from matchbook.lab import style
from matchbook.lab.labels import HALO, add_label, label_lines, spread_labels
from matchbook.lab.provenance import provenance, write_passport
from matchbook.lab.records import Record, write_text
from matchbook.lab.statistics import CONFIDENCE

__all__ = [
    "label_lines",
    "paper_line",
    "paper_point",
    "plot_curves",
    "save_figure",
    "subplots",
]

MAX_PNG_BYTES = 80_000
RESOLUTIONS = (160, 130, 100, 80)  # dots per inch, the first that fits
SMOKE = "smoke run: shows that it works, not what comes out"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def subplots(
    nrows: int = 1, ncols: int = 1, *, height: int | float = 3.2, width: int | float | None = None
) -> tuple[Figure, Any]:
    """A figure in the book's look, and its axes (an array of them where there are several).

    Args:
        nrows: rows of panels.
        ncols: columns of panels.
        height: of one row, in inches.
        width: of the whole figure, in inches; 6.4, or 4.4 for each of several columns.
    """
    style.apply()
    width = width or (6.4 if ncols == 1 else min(4.4 * ncols, 11.0))
    fig = Figure(figsize=(width, height * nrows), layout="constrained")
    FigureCanvasAgg(fig)  # by itself, not through pyplot: Jupyter does not show it a second time
    return fig, fig.subplots(nrows, ncols)


def plot_curves(
    ax: Axes,
    curves: Mapping[str, tuple[Any, Any]],
    *,
    colors: Mapping[str, str] | None = None,
) -> None:
    """The mean over seeds of each arm with its 95 % Student t band, named at the line's end.

    Args:
        ax: where to draw.
        curves: arm -> (steps [T], values [seeds, T]), as `runs.curve` gives them; one seed has no
            band.
        colors: arm -> colour; by default those of `style.arm_colors`.

    Raises:
        ValueError: the shapes of an arm do not fit; names the arm.
    """
    colors = style.arm_colors(curves) if colors is None else colors
    for arm, (steps, values) in curves.items():
        x, y = np.asarray(steps, float), np.asarray(values, float)
        if y.ndim != 2 or y.shape[1:] != x.shape:
            raise ValueError(
                f"curve {arm!r} is (steps [T], values [seeds, T]); got shapes {x.shape}, {y.shape}"
            )
        seeds, mean = len(y), y.mean(axis=0)
        ax.plot(x, mean, color=colors[arm], label=arm.replace("_", " "))
        if seeds > 1:
            half = y.std(axis=0, ddof=1) / np.sqrt(seeds)
            half *= special.stdtrit(seeds - 1, (1 + CONFIDENCE) / 2)
            ax.fill_between(x, mean - half, mean + half, color=colors[arm], alpha=0.18, lw=0)
    label_lines(ax)


def paper_line(ax: Axes, value: int | float, label: str) -> None:
    """A dashed line across the picture at the paper's number, named at its right end."""
    ax.axhline(value, color=style.INK, lw=1.1, dashes=(4, 2.5), zorder=1.8)
    add_label(ax, (1.0, float(value)), label, color=style.INK, coordinates=ax.get_yaxis_transform())


def paper_point(ax: Axes, x: int | float, y: int | float, label: str) -> None:
    """An open diamond at the paper's number, named below it on the right."""
    ax.plot([x], [y], "D", ms=6, mfc="white", mec=style.INK, mew=1.3, zorder=4, clip_on=False)
    ax.annotate(
        label,
        (x, y),
        xytext=(6, -5),
        textcoords="offset points",
        va="top",
        color=style.INK,
        fontsize=9,
        path_effects=HALO,
        zorder=5,
    )


def save_figure(
    fig: Figure,
    folder: Path,
    name: str,
    *,
    numbers: pd.DataFrame,
    alt: str,
    records: Sequence[Record],
    smoke: bool,
    notebook: str,
    profile: str,
) -> None:
    """Write `<name>.svg`, `.png`, `.csv` and `.json` to `folder`.

    Args:
        fig: the picture.
        folder: made if missing.
        name: the files' name: lower-case letters, digits, - and _.
        numbers: what is drawn, as a table.
        alt: one or two sentences that tell what the picture shows to someone who cannot see it.
        records: the runs it is drawn from.
        smoke: mark the picture as a smoke run's.
        notebook: who draws it, such as "gemma2/01_anatomy".
        profile: at which profile.

    Raises:
        ValueError: no alt text worth the name, a name that is no file name, no numbers, or a
            picture that passes 80 kB even at the lowest resolution. Nothing is written then.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a figure's name has letters a-z, digits, - and _ only; got {name!r}")
    if len(alt.strip()) < 20:
        raise ValueError(f"figure {name!r}: alt text of one or two sentences expected; got {alt!r}")
    if not isinstance(numbers, pd.DataFrame) or numbers.empty:
        raise ValueError(f"figure {name!r}: numbers is a table of what is drawn; got {numbers!r}")
    passport = {
        "name": name,
        "alt": alt.strip(),
        "notebook": notebook,
        "profile": profile,
        "smoke": smoke,
        "command": f"matchbook run {notebook} --profile {profile}",
        **provenance(records),
    }
    if smoke:
        _mark_smoke(fig)
    spread_labels(fig)
    svg, png = _svg(fig, name, alt.strip()), _png(fig, name)
    named_index = any(level is not None for level in numbers.index.names)
    csv = numbers.to_csv(index=named_index, lineterminator="\n")
    for ending, text in {"svg": svg, "csv": csv}.items():
        write_text(folder / f"{name}.{ending}", text)
    (folder / f"{name}.png").write_bytes(png)
    write_passport(folder / f"{name}.json", passport)


def _svg(fig: Figure, name: str, alt: str) -> str:
    file = io.StringIO()
    about = {"Title": name, "Description": alt, "Creator": "Matchbook", "Date": None}
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "matchbook"}):
        fig.savefig(file, format="svg", metadata=about)
    # Lines end without blanks, so that git and editors leave the bytes alone.
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _png(fig: Figure, name: str) -> bytes:
    """At the highest resolution that stays below 80 kB, with 256 colours if need be."""
    for dpi in RESOLUTIONS:
        drawn = io.BytesIO()
        fig.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
        image = Image.open(drawn).convert("RGB")
        for picture in (image, image.quantize(256, dither=Image.Dither.NONE)):
            file = io.BytesIO()
            picture.save(file, format="PNG", optimize=True)
            if file.tell() <= MAX_PNG_BYTES:
                return file.getvalue()
    raise ValueError(
        f"figure {name!r} passes {MAX_PNG_BYTES:,} bytes even at {RESOLUTIONS[-1]} dots per inch: "
        "make it smaller, or draw fewer panels or points"
    )


def _mark_smoke(fig: Figure) -> None:
    """A line of text in a strip of its own at the bottom, so that it hides nothing."""
    strip = 0.22 / fig.get_size_inches()[1]
    engine = fig.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, strip, 1, 1 - strip))
    fig.text(
        0.012,
        strip / 2,
        SMOKE,
        va="center",
        ha="left",
        fontsize=8,
        color="white",
        fontweight="bold",
        bbox={"facecolor": style.ink(style.PALETTE["vermillion"]), "pad": 2.5, "edgecolor": "none"},
    )
