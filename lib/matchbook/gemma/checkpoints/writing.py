"""Folders that appear whole or not at all: written beside their place, synced, then renamed."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Generator
from pathlib import Path


@contextlib.contextmanager
def new_folder(
    target: Path, *, overwrite: bool, may_replace: Callable[[Path], object]
) -> Generator[Path]:
    """A folder to write into, which becomes `target` when the block ends without an error.

    An error leaves what was there before; so does a kill, which also leaves `.NAME.*.unfinished`
    beside it, or, in the instant between two renames, the old folder as `.NAME.*.replaced`.

    Args:
      target: where it goes; folders above it are made.
      overwrite: whether it may replace what is there.
      may_replace: raises if what is there is not something to delete.

    Raises:
      FileExistsError: there is something at `target`, and `overwrite` is False.
    """
    target = target.resolve()
    if target.exists():
        if not overwrite:
            raise FileExistsError(
                f"{target}: expected nothing there; pass overwrite=True to replace it"
            )
        may_replace(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{target.name}.{uuid.uuid4().hex[:8]}"
    unfinished = target.with_name(f"{mark}.unfinished")
    unfinished.mkdir()
    try:
        yield unfinished
        for path in [*unfinished.rglob("*"), unfinished]:
            _sync(path)
        _put(unfinished, target, target.with_name(f"{mark}.replaced"))
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _put(unfinished: Path, target: Path, replaced: Path) -> None:
    """Rename into place; whatever was there goes last."""
    if target.exists():
        target.rename(replaced)
    try:
        unfinished.rename(target)
    except BaseException:
        if replaced.exists():
            replaced.rename(target)
        raise
    _sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    """To the disk; a folder's own entry too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
