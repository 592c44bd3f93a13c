"""Files made once: written under another name, then renamed, so never seen half-written."""

import os
from collections.abc import Callable
from pathlib import Path


def remember[T](
    path: Path | None,
    make: Callable[[], T],
    write: Callable[[Path, T], None],
    read: Callable[[Path], T],
) -> T:
    """What `path` holds; made and written there if it is missing or cannot be read.

    Two processes that make it at the same time both succeed: the last to rename wins, and both
    wrote the same. With `path=None` nothing is kept.
    """
    if path is None:
        return make()
    try:
        return read(path)
    except FileNotFoundError:
        pass
    except (
        Exception
    ):  # damaged or foreign: whatever the reader makes of it, making it anew is right
        path.unlink(missing_ok=True)
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(beside, value)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return value
