"""One look for the whole book: colours, fonts, lines.

The palette is Okabe and Ito's (2008), which people with any kind of colour vision can tell apart.
Unusual: text is never set in a bare palette colour, which may be too light to read on white, but in
its `ink`, darkened until it has the contrast that WCAG asks of text; and the look is built on
matplotlib's defaults and its own fonts, so that nobody's settings change a picture's bytes.
"""

from collections.abc import Iterable
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib import colors as mcolors

__all__ = ["GREY", "INK", "PALETTE", "ROLES", "apply", "arm_colors", "ink", "shades"]

INK = "#222222"
GREY = "#767676"
PALETTE = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
}  # Okabe and Ito's yellow is left out: no line of it can be seen on white

# Who plays the same part has the same colour in every picture.
ROLES = {
    "truth": INK,
    "teacher": GREY,
    "reference": GREY,
    "scratch": PALETTE["vermillion"],
    "distilled": PALETTE["blue"],
    "policy": PALETTE["blue"],
    "best_of_n": PALETTE["green"],
    "forward_kl": PALETTE["vermillion"],
    "backward_kl": PALETTE["blue"],
    "jeffreys": PALETTE["purple"],
    "mixture": PALETTE["blue"],
    "categorical": PALETTE["vermillion"],
    "quantile": PALETTE["green"],
    "scalar": PALETTE["orange"],
    "local": PALETTE["sky"],
    "global": PALETTE["vermillion"],
    "2B": PALETTE["sky"],
    "9B": PALETTE["blue"],
    "27B": PALETTE["purple"],
}

LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 9.5,
    "text.hinting": "none",  # letters keep their spacing at any resolution
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "axes.labelsize": 9.5,
    "axes.labelpad": 5,
    "axes.xmargin": 0.02,
    "axes.formatter.useoffset": False,
    "axes.prop_cycle": cycler(color=list(PALETTE.values())),
    "grid.color": "#e9e9e9",
    "grid.linewidth": 0.8,
    "xtick.color": "#9a9a9a",
    "ytick.color": "#9a9a9a",
    "xtick.labelcolor": "#444444",
    "ytick.labelcolor": "#444444",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
    "lines.markersize": 5,
    "patch.linewidth": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "image.cmap": "cividis",
    "svg.fonttype": "path",
    "svg.hashsalt": "matchbook",
    "figure.dpi": 100,
}


def apply() -> None:
    """Set the look for this process, whatever matplotlibrc says."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(LOOK)


def arm_colors(arms: Iterable[str]) -> dict[str, str]:
    """A colour for each arm: its role's where it has one, otherwise the next that is free.

    Raises:
        ValueError: more arms without a role than free colours; for an ordered family, such as
            N = 1, 2, 4, ..., use `shades`.
    """
    arms = list(arms)
    chosen = {arm: ROLES[arm] for arm in arms if arm in ROLES}
    free = [color for color in PALETTE.values() if color not in chosen.values()]
    rest = [arm for arm in arms if arm not in chosen]
    if len(rest) > len(free):
        raise ValueError(
            f"{len(rest)} arms share {len(free)} free colours: draw fewer in one picture, or give "
            "an ordered family the colours of style.shades"
        )
    return {**chosen, **dict(zip(rest, free))}


def shades(names: Iterable[str]) -> dict[str, str]:
    """Colours from light to dark for an ordered family, such as N = 1, 2, 4, 8."""
    names = list(names)
    scale = matplotlib.colormaps["viridis_r"]
    places = [0.2 + 0.75 * i / max(len(names) - 1, 1) for i in range(len(names))]
    return {name: mcolors.to_hex(scale(place)) for name, place in zip(names, places)}


def ink(color: str) -> str:
    """`color`, darkened until text in it has a contrast of at least 4.5 to 1 on white."""
    red, green, blue = mcolors.to_rgb(color)
    while contrast_on_white(mcolors.to_hex((red, green, blue))) < 4.5:
        red, green, blue = 0.97 * red, 0.97 * green, 0.97 * blue
    return mcolors.to_hex((red, green, blue))


def contrast_on_white(color: str) -> float:
    """(L_white + .05) / (L + .05), with the relative luminance L of WCAG 2.2."""
    rgb = mcolors.to_rgb(color)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
