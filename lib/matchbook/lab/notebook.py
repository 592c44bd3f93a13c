"""Notebooks as files: found by name, read, and converted one way, `.py` to `.ipynb`.

The py:percent file is the source; its pair is generated and never read back. Unusual: which runs
(arms and seeds) a notebook makes is read from its source, so that they can be planned as jobs
without starting a kernel.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from matchbook.lab.parameters import (
    ParametersCell,
    UsageError,
    Value,
    parse_parameters_cell,
)
from matchbook.lab.profiles import cross, nearest
from matchbook.lab.records import write_text


@contextmanager
def _left_out(*modules: str) -> Generator[None]:
    """Imports of these fail meanwhile, which those who ask for them expect and live without."""
    absent = [name for name in modules if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # ty: ignore[invalid-assignment]  # "cannot be imported"
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


# Three seconds less for each command: jsonschema builds a grammar of web addresses, and jupytext
# loads a Jupyter server, neither of which a notebook needs to be read. (So nothing here imports
# nbformat before this file.)
with _left_out("rfc3987_syntax", "jupytext.sync_contentsmanager", "jupytext.async_contentsmanager"):
    import jupytext
    import nbformat
    from nbformat import NotebookNode

# Without comment_magics=False jupytext takes a title such as `# # Anatomy?` for a commented magic
# and drops its hash.
_PERCENT = {"extension": ".py", "format_name": "percent", "comment_magics": False}

# What a freshly started kernel would write, less its version numbers: a pair is the same anywhere.
_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}
_PAPERMILL_MARK = "papermill-error-cell-tag"


@dataclass(frozen=True)
class Notebook:
    """A notebook's source: `name` is its path below `notebooks/`, such as `gemma2/01_anatomy`."""

    name: str
    path: Path

    @property
    def pair(self) -> Path:
        return self.path.with_suffix(".ipynb")

    @cached_property
    def node(self) -> NotebookNode:
        """The notebook as Jupyter knows it, without outputs; the same for the same source.

        Raises:
            UsageError: where the file is no py:percent notebook.
        """
        try:
            node = jupytext.reads(self.path.read_text(encoding="utf-8"), fmt=_PERCENT)
        except Exception as error:
            raise UsageError(f"{self.path}: no py:percent notebook: {error}") from error
        node.metadata = nbformat.from_dict(_METADATA)
        node.nbformat, node.nbformat_minor = 4, 5
        for cell, identity in zip(node.cells, _cell_ids(node.cells)):
            cell.id = identity
            tags = cell.metadata.get("tags", [])
            cell.metadata = nbformat.from_dict({"tags": list(tags)} if tags else {})
        return node

    @cached_property
    def title(self) -> str:
        """The first line of the first cell, without its hash: the notebook's question."""
        first = self.node.cells[0].source if self.node.cells else ""
        return first.partition("\n")[0].lstrip("# ").strip()

    @cached_property
    def parameters(self) -> ParametersCell:
        """The parameters cell.

        Raises:
            UsageError: where the first code cell is not tagged `parameters`, or breaks its rules.
        """
        code = [cell for cell in self.node.cells if cell.cell_type == "code"]
        if not code or "parameters" not in code[0].metadata.get("tags", []):
            raise UsageError(
                f'{self.path}: expected the first code cell to be tagged `# %% tags=["parameters"]`'
            )
        try:
            return parse_parameters_cell(code[0].source)
        except (SyntaxError, ValueError) as error:
            raise UsageError(f"{self.path}: parameters cell: {error}") from error

    def runs(self, profile: str, given: Mapping[str, Value]) -> tuple[list[str], int]:
        """The arms and the number of seeds of the notebook's one `experiment.run(...)`.

        Returns ([], 0) for a notebook that runs nothing.

        Raises:
            UsageError: where they are neither literals, nor parameters, nor `knobs.<parameter>`,
                nor `lab.cross(...)` of such.
        """
        call = _run_call(self.node.cells)
        if call is None:
            return [], 0
        found: dict[str, Value] = {"arms": ["exact"], "seeds": 1}
        for keyword in call.keywords:
            if keyword.arg in found:
                found[keyword.arg] = self._evaluate(keyword.value, profile, given)
        arms, seeds = found["arms"], found["seeds"]
        if not isinstance(arms, list) or not arms or type(seeds) is not int or seeds < 1:
            raise UsageError(f"{self.name}: expected arms and seeds >= 1, got {arms!r}, {seeds!r}")
        return [str(arm) for arm in arms], seeds

    def _evaluate(self, node: ast.expr, profile: str, given: Mapping[str, Value]) -> Value:
        match node:
            case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="knobs"), attr=name):
                if name in self.parameters.parameters:
                    return self.parameters.resolve(name, profile, given)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="lab"), attr="cross"), args=args):
                return [*cross(*(_names(self._evaluate(arg, profile, given)) for arg in args))]
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise UsageError(
                f"{self.path}: experiment.run: expected a literal, a parameter or "
                "knobs.<parameter> for arms and seeds, or lab.cross(...) of them, "
                f"got {ast.unparse(node)!r}"
            ) from None


def _names(value: Value) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else [str(value)]


def all_notebooks(root: Path) -> list[Notebook]:
    """Every `notebooks/**/*.py`, by name."""
    folder = root / "notebooks"
    paths = [
        path
        for path in folder.rglob("*.py")
        if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    ]
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    return [Notebook(name, names[name]) for name in sorted(names)]


def find_notebook(name: str, root: Path) -> Notebook:
    """A notebook by its name (`gemma2/01_anatomy`) or by a path to its `.py` or `.ipynb`.

    Raises:
        UsageError: where there is none, with the nearest name and the list.
    """
    known = {notebook.name: notebook for notebook in all_notebooks(root)}
    source = Path(name).resolve().with_suffix(".py")
    by_path = {notebook.path.resolve(): notebook for notebook in known.values()}
    if name in known:
        return known[name]
    if source in by_path:
        return by_path[source]
    asked = name.removeprefix("notebooks/").removesuffix(".py").removesuffix(".ipynb")
    if asked in known:
        return known[asked]
    # `01_anatomy` is near `gemma2/01_anatomy`, whatever the folder's length.
    same_stem = [other for other in known if other.rpartition("/")[2] == asked.rpartition("/")[2]]
    hint = f": did you mean {same_stem[0]!r}?" if same_stem else nearest(asked, list(known))
    listing = "".join(f"\n  {other}" for other in known) or " none"
    raise UsageError(
        f"unknown notebook {name!r}{hint}\nnotebooks in {root / 'notebooks'}:{listing}"
    )


def normalise(executed: NotebookNode, source: NotebookNode) -> NotebookNode:
    """An executed notebook without what differs from run to run: times, versions, widget state.

    Cells keep the metadata of `source`; neighbouring pieces of one stream become one output;
    papermill's marks around a failed cell go.
    """
    metadata = {cell.id: cell.metadata for cell in source.cells}
    cells = [c for c in executed.cells if _PAPERMILL_MARK not in c.metadata.get("tags", [])]
    result = nbformat.from_dict({**source, "cells": cells})
    for cell in result.cells:
        tags = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        cell.metadata = nbformat.from_dict(metadata.get(cell.id, tags))
        if cell.cell_type == "code":
            cell.outputs = _joined_streams(cell.outputs)
    return result


def write_notebook(node: NotebookNode, path: Path) -> None:
    """Writes with sorted keys, whole or not at all."""
    write_text(path, nbformat.writes(node) + "\n")


def read_notebook(path: Path) -> NotebookNode:
    """An `.ipynb` file."""
    return nbformat.read(path, as_version=4)


def convert(notebook: Notebook, path: Path) -> None:
    """Writes the notebook's source as an `.ipynb` without outputs, byte for byte the same."""
    write_notebook(notebook.node, path)


def pair_agrees(notebook: Notebook) -> bool:
    """Whether the committed `.ipynb` has the source's cells, one by one: kind, tags and text."""
    if not notebook.pair.exists():
        return False
    pair = read_notebook(notebook.pair)
    return [_identity(cell) for cell in pair.cells] == [_identity(c) for c in notebook.node.cells]


def _identity(cell: NotebookNode) -> tuple[str, str, list[str]]:
    return cell.cell_type, cell.source, list(cell.metadata.get("tags", []))


def _cell_ids(cells: list[NotebookNode]) -> list[str]:
    """Hashes of the text, numbered where two cells are alike: an edit changes one id only."""
    seen: dict[str, int] = {}
    identities = []
    for cell in cells:
        digest = hashlib.sha256(json.dumps([cell.cell_type, cell.source]).encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        identities.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return identities


def _joined_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    joined: list[NotebookNode] = []
    for output in outputs:
        previous = joined[-1] if joined else None
        streams = previous and output.output_type == previous.output_type == "stream"
        if streams and output.name == previous.name:
            previous.text += output.text
        else:
            joined.append(output)
    return joined


def _run_call(cells: list[NotebookNode]) -> ast.Call | None:
    """The call `experiment.run(...)`, where experiment was made by `lab.Experiment(...)`."""
    for cell in cells:
        if cell.cell_type != "code" or ".run(" not in cell.source:
            continue
        for node in ast.walk(ast.parse(cell.source)):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="experiment"), attr="run")):
                    return node
    return None
