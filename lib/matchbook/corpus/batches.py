"""An endless, shuffled stream of batches that can say where it is and go on from there (Grain)."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from matchbook.corpus.packing import take


@runtime_checkable
class Stream[AnyRows](Protocol):
    """An iterator with a position: a small dict, good for JSON."""

    def __iter__(self) -> Iterator[AnyRows]: ...
    def __next__(self) -> AnyRows: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


def batches(rows: Any, batch_size: int, seed: int) -> Stream:
    """Batches of `batch_size` rows, in an order that depends on the seed alone, for ever.

    Rows are `Rows`, or another named tuple of arrays that begin with rows, one of them `tokens`.
    Each pass over the rows is shuffled anew; a batch may hold the end of one pass and the start of
    the next. Reading is in-process: the rows are in memory already.

    Raises:
      ValueError: `batch_size` below 1, or no rows.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if len(rows.tokens) == 0:
        raise ValueError("rows: expected at least one row, got none")
    import grain  # a second that readers of records need not pay

    stream = (
        grain.MapDataset.range(len(rows.tokens))
        .shuffle(seed=seed)
        .repeat()
        .batch(batch_size)
        .map(lambda index: take(rows, np.asarray(index)))
    )
    in_process = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(stream.to_iter_dataset(in_process))
