"""Settings and tables as arguments of a step's program, where they would be its constants.

A maker such as `jbond_step` binds a number or a reward's table into the step, and another number is
another program to compile, seconds for a transformer. Bound here instead, a sweep is one program,
and XLA does not fold 32,768-entry tables by itself.
"""

import functools
from collections.abc import Callable
from typing import Any

from jax.tree_util import Partial

from matchbook.bond.algorithms.state import Metrics, Step
from matchbook.bond.policies import Prompts


def bound(make: Callable[..., Step], **arguments: Any) -> Partial:
    """``make(**arguments)`` as a step, the arguments being inputs of the compiled program.

    For `lab.fit`, which compiles once for all calls with one and the same `make`.

    Args:
      make: from the arguments, traced, to a step; a function defined once, no fresh lambda.
      arguments: pytrees of arrays, of one shape and type in all calls.
    """
    return Partial(_program(make), **arguments)


@functools.lru_cache
def _program(make: Callable[..., Step]) -> Callable[..., tuple[Any, Metrics]]:
    def step(state: Any, prompts: Prompts, **arguments: Any) -> tuple[Any, Metrics]:
        return make(**arguments)(state, prompts)

    return step
