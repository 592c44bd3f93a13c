"""Direct labels: a line's name at its end, instead of a legend to look things up in.

Unusual: where lines end close together, names are moved apart as little as possible (in least
squares, by pooling), and only once the layout of the whole picture is known.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import BboxBase, Transform

from matchbook.lab.style import ink

__all__ = ["add_label", "label_lines", "spread_labels"]

MARK = "line-label"  # the gid by which labels are found again
OFFSET = 6.0  # points between a line's end and its name; twice that where a leader line is needed
HALO = [withStroke(linewidth=2.5, foreground="white")]  # so that grid lines do not strike it out


def label_lines(ax: Axes) -> None:
    """Write each line's label at its last finite point, in the line's colour; drop any legend."""
    for line in ax.get_lines():
        label = str(line.get_label())
        x, y = (np.asarray(data, float) for data in line.get_data())
        finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if label.startswith("_") or not finite.size or line.get_gid() == MARK:
            continue
        line.set_gid(MARK)
        end = float(x[finite[-1]]), float(y[finite[-1]])
        add_label(ax, end, label, color=to_hex(line.get_color()), coordinates=line.get_transform())
    if (legend := ax.get_legend()) is not None:
        legend.remove()


def add_label(
    ax: Axes, xy: tuple[float, float], text: str, *, color: str, coordinates: Transform
) -> None:
    """Write `text` beside a point; `spread_labels` will keep it clear of other labels."""
    label = ax.annotate(
        text,
        xy,
        xycoords=coordinates,
        xytext=(OFFSET, 0),
        textcoords="offset points",
        va="center",
        ha="left",
        color=ink(color),
        fontsize=9,
        annotation_clip=False,
        path_effects=HALO,
        arrowprops={"arrowstyle": "-", "lw": 0.7, "color": ink(color), "shrinkA": 0, "shrinkB": 1},
    )
    label.set_gid(MARK)
    if label.arrow_patch is not None:
        label.arrow_patch.set_visible(False)


def spread_labels(fig: Figure) -> None:
    """Move labels that would overlap apart, each as little as possible."""
    fig.draw_without_rendering()
    for ax in fig.axes:
        labels = [t for t in ax.texts if isinstance(t, Annotation) and t.get_gid() == MARK]
        for column in _columns(labels):
            _spread(column, ax.get_window_extent(), fig.dpi / 72)


def _columns(labels: Sequence[Annotation]) -> list[list[Annotation]]:
    """Labels that share some horizontal place, and so could overlap."""
    columns: list[list[Annotation]] = []
    right = -np.inf
    for label in sorted(labels, key=lambda label: Text.get_window_extent(label).x0):
        box = Text.get_window_extent(label)
        if box.x0 <= right:
            columns[-1].append(label)
        else:
            columns.append([label])
        right = max(right, box.x1)
    return columns


def _spread(labels: Sequence[Annotation], frame: BboxBase, per_point: float) -> None:
    """Move the labels of one column; `per_point` is pixels a point."""
    boxes = [Text.get_window_extent(label) for label in labels]  # without its leader line
    ends = [
        (box.x0 - label.xyann[0] * per_point, box.y0 + box.height / 2 - label.xyann[1] * per_point)
        for label, box in zip(labels, boxes)
    ]
    gap = 1.1 * max(box.height for box in boxes)
    places = apart([y for _, y in ends], gap, frame.y0, frame.y1)
    moved = [abs(place - y) >= 0.3 * gap for (_, y), place in zip(ends, places)]
    left = max(x for x, _ in ends) + (2 if any(moved) else 1) * OFFSET * per_point
    for label, (x, y), place, needs_leader in zip(labels, ends, places, moved):
        label.xyann = ((left - x) / per_point, (place - y) / per_point)
        if label.arrow_patch is not None:
            label.arrow_patch.set_visible(needs_leader)


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """The places nearest to `wanted` (in least squares) that are at least `gap` apart.

    They keep their order, and stay between `low` and `high` if they fit there. Subtracting
    0, gap, 2 gap, ... turns the task into isotonic regression, solved by pooling neighbours.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[tuple[float, int]] = []  # mean, count
    for rank, index in enumerate(order):
        mean, count = wanted[index] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, members = blocks.pop()
            mean, count = (before * members + mean * count) / (members + count), members + count
        blocks.append((mean, count))
    flat = np.concatenate([np.full(count, mean) for mean, count in blocks])
    room = high - low - gap * (len(flat) - 1)
    if room >= 0:
        flat = np.clip(flat, low, low + room)
    places = np.empty(len(flat))
    places[order] = flat + gap * np.arange(len(flat))
    return places
