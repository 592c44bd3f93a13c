"""Where a training loop's batches come from: an iterator, or a function of the current state.

Unusual: the position in the data is part of a checkpoint. An iterator that can tell and set its
position (Grain's `get_state`, `set_state`) is put back exactly; another is wound forward.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Batches:
    """One way to draw from either kind of source.

    Args:
        given: an iterator of batches, or a function `state -> batch`. What such a function
            remembers besides the state needs `get_state` and `set_state` too.

    Raises:
        ValueError: it is neither.
    """

    def __init__(self, given: Any):
        self._given = given
        self.of_state = not hasattr(given, "__next__")
        if self.of_state and not callable(given):
            raise ValueError(
                "batches is an iterator or a function of the state; got "
                f"{type(given).__name__}: wrap it in iter(), or itertools.cycle() to go round"
            )
        self._tells = hasattr(given, "get_state") and hasattr(given, "set_state")

    def draw(self, step: int, count: int, length: int, state: Any) -> Any:
        """The batches of `count` updates after `step`, stacked: leaves [length, ...].

        What is beyond `count` repeats the last batch and is not used. A function of the state
        draws one batch for one update.

        Raises:
            ValueError: the iterator has ended, or batches differ in structure or shape.
        """
        if self.of_state:
            return jax.tree.map(_single, self._given(state))
        drawn = []
        for i in range(count):
            try:
                drawn.append(next(self._given))
            except StopIteration:
                raise ValueError(f"batches ended after {step + i} updates: provide more") from None
        drawn += [drawn[-1]] * (length - count)
        try:
            return jax.tree.map(_stack, *drawn)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"the batches of updates {step + 1} to {step + count} differ in structure or "
                f"shape: all batches of a loop are alike ({error})"
            ) from error

    def position(self) -> Any:
        """What `seek` needs beside the number of updates: None, or what the source tells."""
        return self._given.get_state() if self._tells else None

    def seek(self, step: int, position: Any) -> None:
        """Put a source that is at its start where it was after `step` updates."""
        if self._tells:
            self._given.set_state(position)
        elif not self.of_state:
            for done in range(step):
                if next(self._given, self) is self:
                    raise ValueError(f"batches ended after {done} updates, before {step}")


def _stack(*leaves: Any) -> Any:
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        return jnp.stack(leaves)
    return np.stack(leaves)


def _single(leaf: Any) -> Any:
    return jnp.expand_dims(leaf, 0) if isinstance(leaf, jax.Array) else np.expand_dims(leaf, 0)
