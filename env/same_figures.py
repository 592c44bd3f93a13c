"""Do two folders hold the same figures? Up to rounding: processors differ in the last digits.

    python env/same_figures.py runs/nbval/figures/laptop figures/laptop

Text must be equal but for numbers, which may differ by 1e-6 of themselves; pictures may differ
visibly in one pixel of a hundred.
"""

import re
import sys
from pathlib import Path

import numpy as np
from matplotlib.image import imread

HASH = re.compile(r"(?<=[\"#][pm])[0-9a-f]{10}(?=[\")])")  # an SVG's names, made from coordinates
NUMBER = re.compile(r"-?\d+\.?\d*(?:[eE][-+]?\d+)?")


def same_text(ours: str, theirs: str) -> bool:
    """Equal words, and numbers that are close."""
    ours, theirs = HASH.sub("", ours), HASH.sub("", theirs)
    if NUMBER.split(ours) != NUMBER.split(theirs):
        return False
    found, expected = (np.array(NUMBER.findall(text), float) for text in (ours, theirs))
    return np.allclose(found, expected, rtol=1e-6, atol=2e-6)  # drawings have six decimals


def same_picture(ours: Path, theirs: Path) -> bool:
    """Of one size, and nearly all pixels alike."""
    found, expected = imread(ours), imread(theirs)
    if found.shape != expected.shape:
        return False
    return np.mean(np.abs(found - expected).max(axis=-1) > 0.1) < 0.01


def same(ours: Path, theirs: Path) -> bool:
    """Byte for byte, or near enough for its kind of file."""
    if ours.read_bytes() == theirs.read_bytes():
        return True
    if ours.suffix == ".png":
        return same_picture(ours, theirs)
    return same_text(ours.read_text(), theirs.read_text())


def main(found: Path, expected: Path) -> None:
    """Exit with the files that differ or that only one folder has."""
    names = [{path.relative_to(at) for path in at.rglob("*.*")} for at in (found, expected)]
    wrong = [f"{name}: in one folder only" for name in sorted(names[0] ^ names[1])]
    both = sorted(names[0] & names[1])
    wrong += [f"{name}: differs" for name in both if not same(found / name, expected / name)]
    if wrong or not both:
        sys.exit("\n".join([f"{found} against {expected}, {len(both)} files:", *wrong]))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
