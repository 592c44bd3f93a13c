"""What our numbers say to a claim: reproduced, contradicted, undecided or not run.

Unusual: a condition looks at a whole interval, never at a bare mean. Wholly inside is reproduced,
wholly outside is contradicted, and across a bound is undecided, which more seeds may settle.
"""

import math
from collections.abc import Mapping
from enum import StrEnum

from matchbook.lab.claim_rows import Claim, Test
from matchbook.lab.numbers import Number

__all__ = ["Verdict", "agree", "evaluate", "verdict_of"]

CANNOT = {
    "needs-weights": "needs the released checkpoints",
    "not-reproducible": "out of reach here: raters, closed models or scale",
}


class Verdict(StrEnum):
    """Worst first: of several tests, the worst verdict is the claim's."""

    CONTRADICTED = "contradicted"
    NOT_RUN = "not run"
    UNDECIDED = "undecided"
    REPRODUCED = "reproduced"


def evaluate(claim: Claim, numbers: Mapping[str, Number] | None) -> tuple[Verdict, str]:
    """The verdict on a claim, and the reason in a few words.

    Args:
        claim: a row of the ledger.
        numbers: what its notebook reported at one profile; None where it has not run.
    """
    if not claim.tests:
        reason = "no test yet" if claim.notebook else "no notebook yet"
        return Verdict.NOT_RUN, CANNOT.get(claim.kind, reason)
    if numbers is None:
        return Verdict.NOT_RUN, f"{claim.notebook} has not run"
    verdicts = [(verdict_of(test, numbers.get(test.number)), test) for test in claim.tests]
    worst = min((verdict for verdict, _ in verdicts), key=list(Verdict).index)
    decisive = [test for verdict, test in verdicts if verdict is worst]
    if worst is Verdict.NOT_RUN:
        return worst, "missing: " + ", ".join(test.number for test in decisive)
    if worst is Verdict.REPRODUCED:
        return worst, f"{len(decisive)} test{'s' * (len(decisive) > 1)}"
    return worst, "; ".join(f"{t.number} = {numbers[t.number]}, expected {t}" for t in decisive)


def verdict_of(test: Test, number: Number | None) -> Verdict:
    """What one number says to one condition."""
    if number is None:
        return Verdict.NOT_RUN
    interval = number.interval
    if interval is None or isinstance(test.bound, str | bool):
        value = number.value
        same = type(value) is type(test.bound) and value == test.bound  # in Python, 1 == True
        return Verdict.REPRODUCED if same else Verdict.CONTRADICTED
    if any(map(math.isnan, interval)):
        return Verdict.UNDECIDED
    sides = {_side(test, end) for end in interval}
    if sides == {0}:
        return Verdict.REPRODUCED
    return Verdict.CONTRADICTED if len(sides) == 1 else Verdict.UNDECIDED


def agree(claim: Claim, test: Test, now: Number, published: Number) -> bool:
    """Whether a number computed afresh agrees with the published one.

    Intervals agree where they overlap. Exact numbers agree where they are equal, or as near to each
    other as `near` asks; and where the condition bounds something like a rounding error, which is
    another on every machine, where both meet it or both do not.
    """
    if repr(now) == repr(published):  # unlike ==, this holds for NaN and parts 1 from True
        return True
    ours, theirs = now.interval, published.interval
    if ours is None or theirs is None:
        return False
    if claim.kind != "exact":
        return ours[0] <= theirs[1] and theirs[0] <= ours[1]
    if test.condition == "near":
        return abs(ours[0] - theirs[0]) <= test.within
    return test.condition != "equals" and verdict_of(test, now) is verdict_of(test, published)


def _side(test: Test, x: int | float) -> int:
    """0 where x meets the condition, otherwise -1 or 1: on which side of it x lies."""
    match test.condition:
        case "below":
            return int(x >= test.bound)
        case "above":
            return -int(x <= test.bound)
        case "between":
            low, high = test.bound
        case "near":
            # Not |x| between two rounded sums: the difference is what `within` speaks of.
            return 0 if abs(x - test.bound) <= test.within else (x > test.bound) - (x < test.bound)
        case _:
            low = high = test.bound
    return (x > high) - (x < low)
