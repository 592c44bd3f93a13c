"""The environment is the corpus: Python source of the standard library and the installed packages.

About 190 MB in this book's own environment. Unusual: names are relative to the two roots, and what
installers write differently on each machine is left out, so equal environments give equal corpora.
"""

import os
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from matchbook.corpus.documents import Document, Selection, decode, sha256

# 1 % of the files and a fifth of the bytes: generated bindings, tables of numbers, giant tests.
# One of them would be a third of a 3 MB sample.
LARGEST_FILE = 128 * 1024

# Folders that are no source, no part of the roots' own content, or this library itself.
LEFT_OUT = {"__pycache__", "site-packages", "dist-packages", "matchbook"}
# Files and folders that installers write, with the machine's paths in them.
WRITTEN_BY_INSTALLERS = ("__editable__", "_editable_impl_", "_virtualenv", "_sysconfigdata")
SITE_FILES = {"sitecustomize.py", "usercustomize.py"}


def roots() -> dict[str, Path]:
    """The folders to read, by the name that stands for them."""
    paths = sysconfig.get_paths()
    found = {"stdlib": Path(paths["stdlib"]), "packages": Path(paths["purelib"])}
    if paths["platlib"] != paths["purelib"]:
        found["platform-packages"] = Path(paths["platlib"])
    return found


def listing(folders: Mapping[str, Path]) -> list[tuple[str, Path]]:
    """Names and paths of all `.py` files under the roots, sorted by name."""
    found = []
    for label, root in folders.items():
        for folder, subfolders, files in os.walk(root):
            subfolders[:] = [name for name in subfolders if _is_source(name)]
            here = Path(folder)
            relative = here.relative_to(root).as_posix()
            prefix = label if relative == "." else f"{label}/{relative}"
            found += [
                (f"{prefix}/{name}", here / name)
                for name in files
                if name.endswith(".py") and _is_source(name)
            ]
    return sorted(found)


def documents(
    folders: Mapping[str, Path], selection: Selection, skipped: Counter[str]
) -> Iterator[Document]:
    """One document a file, in hash order, so that a limit ends the reading early."""
    ordered = sorted((sha256(name), path) for name, path in listing(folders))
    for order, path in ordered:
        if not selection.wants(order):
            return
        if (text := read(path, skipped)) is not None:
            yield Document(order, sha256(text), text)


def read(path: Path, skipped: Counter[str]) -> str | None:
    """The text of a file; None, and counted, if it cannot be had or is too large."""
    try:
        data = path.read_bytes()
    except OSError:
        skipped["unreadable"] += 1
        return None
    if len(data) > LARGEST_FILE:
        skipped["over 128 KiB"] += 1
        return None
    return decode(data, skipped)


def _is_source(name: str) -> bool:
    return (
        name not in LEFT_OUT
        and name not in SITE_FILES
        and not name.startswith(WRITTEN_BY_INSTALLERS)
        and not name.endswith((".egg-info", ".dist-info"))
    )
