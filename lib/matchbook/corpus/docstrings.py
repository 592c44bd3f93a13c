"""Function -> first line of its docstring: real summarisation from the installed packages.

The code of a function, its docstring taken out, is the prompt; what its author wrote about it in
one line is the answer. Unusual: each summary counts once, so that phrases which hundreds of
functions share ("See base class.") teach nothing, and no test answer was seen in training.
"""

import ast
import json
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from matchbook.corpus import environment
from matchbook.corpus.cache import remember
from matchbook.corpus.documents import sha256
from matchbook.corpus.pair import Pair

FEWEST_WORDS = 3  # of a summary


def pairs(
    max_pairs: int | None,
    skipped: Counter[str],
    cache: Path | None = None,
    folders: Mapping[str, Path] | None = None,
) -> list[Pair]:
    """Pairs of the environment, files in hash order, so that a limit ends the reading early.

    Args:
      max_pairs: pairs at most; None for all, about 57,000 in this book's own environment.
      skipped: counts what was left out, and why.
      cache: folder that keeps what was found, under the names and sizes of all files.
      folders: roots to read; the environment's by default.
    """
    listed = environment.listing(folders or environment.roots())
    ordered = sorted((sha256(name), name, path) for name, path in listed)
    sizes = [f"{name} {path.stat().st_size}" for _, name, path in ordered]
    key = sha256("\n".join([str(max_pairs), *sizes])).hex()[:16]

    def make() -> tuple[list[Pair], dict[str, int]]:
        counts: Counter[str] = Counter()
        return _first(max_pairs, [x[1:] for x in ordered], counts), dict(counts)

    path = cache and cache / f"docstrings-{key}.json"
    found, counts = remember(path, make=make, write=_write, read=_read)
    skipped.update(counts)
    return found


def _first(
    max_pairs: int | None, files: list[tuple[str, Path]], skipped: Counter[str]
) -> list[Pair]:
    kept: list[Pair] = []
    seen: set[str] = set()
    for name, path in files:
        for pair in of_file(name, environment.read(path, skipped) or ""):
            if len(kept) == max_pairs:
                return kept
            if {pair.prompt, pair.answer} & seen:
                skipped["duplicate"] += 1
                continue
            seen |= {pair.prompt, pair.answer}
            kept.append(pair)
    return kept


def of_file(name: str, text: str) -> Iterator[Pair]:
    """The pairs of one file; none where it is no Python of this version.

    Args:
      name: `root/package/...`; the package is the pairs' group.
      text: the file's content.
    """
    if '"""' not in text and "'''" not in text:
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # of invalid escapes in others' strings
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    group, lines = "/".join(name.split("/")[:2]).removesuffix(".py"), text.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            code, answer = without_docstring(node, lines), summary(node)
            if code and answer:
                yield Pair(code, answer, f"{name}, line {node.lineno}", group)


def summary(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """The first line of the docstring, if it is a paragraph of its own of three words or more."""
    first, *rest = (ast.get_docstring(function) or "").split("\n")
    alone = not rest or not rest[0].strip()
    words = first.split()
    return " ".join(words) if alone and len(words) >= FEWEST_WORDS else None


def without_docstring(
    function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]
) -> str | None:
    """The function's code without decorators and docstring, not indented.

    None if nothing else is in it, or if the docstring shares a line with code.
    """
    if len(function.body) < 2:
        return None
    docstring, then = function.body[:2]
    last = docstring.end_lineno or docstring.lineno
    before = lines[docstring.lineno - 1].lstrip()
    if not before.startswith(("'", '"', "r", "R", "u")) or then.lineno == last:
        return None
    kept = lines[function.lineno - 1 : docstring.lineno - 1] + lines[last : function.end_lineno]
    return textwrap.dedent("\n".join(line.rstrip() for line in kept if line.strip()))


def _write(path: Path, found: tuple[list[Pair], dict[str, int]]) -> None:
    path.write_text(json.dumps(found))


def _read(path: Path) -> tuple[list[Pair], dict[str, int]]:
    kept, counts = json.loads(path.read_text())
    return [Pair(*pair) for pair in kept], counts
