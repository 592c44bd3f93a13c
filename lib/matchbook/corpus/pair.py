"""One prompt with its answer, and what places it."""

from typing import NamedTuple


class Pair(NamedTuple):
    """A prompt and the answer to it.

    where: for messages: the file and the row or line.
    group: pairs of one group fall on one side of a split.
    split: "train", "validation" or "test" where the source says so, else empty.
    """

    prompt: str
    answer: str
    where: str
    group: str
    split: str = ""
