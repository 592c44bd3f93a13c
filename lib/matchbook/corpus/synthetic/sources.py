"""Python text taken apart into sources of different redundancy: code, prose, data (Figure 1).

The paper compares code, web, wiki and science. What every machine has is Python, and that holds
three kinds of text: docstrings are prose, long literals are data, and the rest is code.
"""

import ast
import lzma
import warnings
from collections.abc import Iterable, Iterator, Sequence

from matchbook.corpus.documents import cut

# A literal of constants is data, not code, from so many lines on.
DATA_LINES = 8
# Characters of a document: so many of each source that passages can be drawn from different ones.
PIECE = 2000

WITH_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
CONTAINERS = ast.List | ast.Tuple | ast.Set | ast.Dict
LITERAL = ast.Constant | CONTAINERS | ast.UnaryOp | ast.expr_context | ast.unaryop


def by_source(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The code, prose and data of Python texts; `text` where something is not Python.

    Every line goes to exactly one source, and stays in the order of its text. Documents are cut to
    `PIECE` characters; sources without any are left out.
    """
    found: dict[str, list[str]] = {"code": [], "prose": [], "data": [], "text": []}
    for text in texts:
        for source, lines in _take_apart(text).items():
            if lines.strip():
                found[source] += cut(lines, PIECE)
    return {source: tuple(documents) for source, documents in found.items() if documents}


def redundancy(texts: Sequence[str]) -> float:
    """The share of the bytes that a compressor (LZMA) saves: 0 for noise, near 1 for repetition.

    It also finds what documents have in common. More text of a kind seems more redundant: compare
    equal sizes.

    Raises:
      ValueError: no text.
    """
    data = "\n".join(texts).encode()
    if not data:
        raise ValueError("texts: expected some text to compress, got none")
    return 1 - len(lzma.compress(data, preset=1)) / len(data)


def _take_apart(text: str) -> dict[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's escapes in strings
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {"text": text}
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # as Python counts them
    source = ["code"] * len(lines)
    for node in _walk(tree):
        if isinstance(node, CONTAINERS) and all(isinstance(n, LITERAL) for n in ast.walk(node)):
            _mark(source, node, "data")
        elif isinstance(node, WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            _mark(source, node.body[0], "prose")
    return {
        kind: "\n".join(line for line, of in zip(lines, source, strict=True) if of == kind)
        for kind in ("code", "prose", "data")
    }


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """The node and those below it, without small expressions: nine tenths of a tree."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr) or _num_lines(child) >= DATA_LINES:
            yield from _walk(child)


def _mark(source: list[str], node: ast.stmt | ast.expr, kind: str) -> None:
    start = node.lineno - 1
    source[start : start + _num_lines(node)] = [kind] * _num_lines(node)


def _num_lines(node: ast.stmt | ast.expr) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1
