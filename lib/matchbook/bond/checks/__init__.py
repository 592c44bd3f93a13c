"""The exact statements of BOND, each put to the test: numbers for the ledger, curves for pictures.

Every check returns a `Checked`, and two are joined with ``|``. Differences of 1e-15 are what they
are about: run them under `jax.enable_x64`, or they will honestly report single precision.
"""

from collections.abc import Callable, Iterable
from functools import reduce
from operator import or_

from matchbook.bond.checks.anchors import ema_speed, iterated
from matchbook.bond.checks.checked import Checked
from matchbook.bond.checks.gradients import gradients
from matchbook.bond.checks.jbond import crude_reward, crude_target, quantile_bias
from matchbook.bond.checks.jeffreys import jeffreys
from matchbook.bond.checks.movement import continuous_values, movement
from matchbook.bond.checks.rlhf import equivalence, invariance
from matchbook.bond.checks.theorem import collision, composition, theorem_1, worked_example

# Called with a seed and a number of random answer spaces.
ON_RANDOM_SPACES: tuple[Callable[[int, int], Checked], ...] = (
    theorem_1,
    collision,
    movement,
    equivalence,
    invariance,
    composition,
    jeffreys,
    gradients,
    crude_reward,
)
# Called with nothing.
CLOSED_FORMS: tuple[Callable[[], Checked], ...] = (
    worked_example,
    continuous_values,
    iterated,
    crude_target,
    quantile_bias,
)

__all__ = [
    "CLOSED_FORMS",
    "ON_RANDOM_SPACES",
    "Checked",
    "collision",
    "composition",
    "continuous_values",
    "crude_reward",
    "crude_target",
    "ema_speed",
    "equivalence",
    "gradients",
    "invariance",
    "iterated",
    "jeffreys",
    "join",
    "movement",
    "quantile_bias",
    "theorem_1",
    "worked_example",
]


def join(found: Iterable[Checked]) -> Checked:
    """All numbers and all curves in one."""
    return reduce(or_, found)
