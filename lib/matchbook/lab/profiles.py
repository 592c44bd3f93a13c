"""Profiles: one switch that changes sizes, seeds and steps, and nothing else.

A notebook's parameters cell holds the table `sizes`, one column a profile; `knobs` picks the
column, and lets every value that the reader set by hand win over it.
"""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

PROFILES = ("smoke", "laptop", "gpu", "paper")


def knobs(profile: str, sizes: Mapping[str, Mapping[str, Any]], **chosen: Any) -> SimpleNamespace:
    """The sizes of one profile, with what the reader chose put in their place.

    Args:
        profile: a column of `sizes`.
        sizes: profile -> knob -> value; all columns hold the same knobs.
        chosen: every knob by name: None takes the profile's value, anything else wins.

    Raises:
        ValueError: an unknown profile, columns that differ, or a knob that is in one of
            `sizes` and `chosen` but not in the other.
    """
    if strange := [name for name in sizes if name not in PROFILES]:
        raise ValueError(f"sizes has the columns {list(PROFILES)} or some of them; got {strange}")
    if profile not in sizes:
        raise ValueError(
            f"profile is one of {list(sizes)}; got {profile!r}{nearest(profile, sizes)}"
        )
    column = sizes[profile]
    for other, values in sizes.items():
        if set(values) != set(column):
            differing = sorted(set(values) ^ set(column))
            raise ValueError(
                f"all profiles set the same knobs: {profile!r} and {other!r} differ in {differing}"
            )
    for name in chosen:
        if name not in column:
            raise ValueError(
                f"sizes has no knob {name!r}, only {list(column)}{nearest(name, column)}"
            )
    if missing := [name for name in column if name not in chosen]:
        given = ", ".join(f"{name}={name}" for name in missing)
        raise ValueError(f"sizes holds knobs that were not passed: call knobs(..., {given})")
    return SimpleNamespace(
        **{name: column[name] if value is None else value for name, value in chosen.items()}
    )


def cross(*factors: Sequence[str]) -> list[str]:
    """The arms of a design of several factors, the last one changing fastest.

    `cross(["cup", "walker"], ["mixture"])` is `["cup+mixture", "walker+mixture"]`, of which
    `arm.split("+")` makes the two again.

    Raises:
        ValueError: a name that holds a "+", so that an arm could not be split again.
    """
    if strange := [name for names in factors for name in names if "+" in name]:
        raise ValueError(f'names that are crossed hold no "+"; got {strange}')
    return ["+".join(names) for names in itertools.product(*factors)]


def nearest(name: str, names: Any) -> str:
    """`": did you mean 'x'?"` for the closest of `names`, or nothing where none is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f": did you mean {close[0]!r}?" if close else ""
