"""Endless batches made on the spot: no row twice, and the position is one number.

Where `corpus.batches` goes round limited rows, this is the stream of unlimited data.
"""

from collections.abc import Callable


class Fresh[Batch]:
    """An iterator whose k-th batch is `make(k)`, k from 0 on: good for `lab.fit`, resume included.

    Args:
      make: a pure function of the step.
    """

    def __init__(self, make: Callable[[int], Batch]):
        self._make = make
        self._step = 0

    def __iter__(self) -> "Fresh[Batch]":
        return self

    def __next__(self) -> Batch:
        batch = self._make(self._step)
        self._step += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Where the stream is: good for JSON."""
        return {"step": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on from there.

        Raises:
          ValueError: the state of another kind of stream.
        """
        if set(state) != {"step"}:
            raise ValueError(
                f"state: expected what get_state returns, {{'step': ...}}; got {state}"
            )
        self._step = state["step"]
