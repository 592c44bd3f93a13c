"""The notebooks themselves: their shape, their pairs, and each one computed afresh at smoke.

The committed pairs are *replayed* elsewhere (`make notebooks`, nbval); here everything is computed.
"""

import ast
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from matchbook.lab.claims import ledger

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").rglob("*.py"))
NAMES = [str(p.relative_to(ROOT / "notebooks").with_suffix("")) for p in SOURCES]
REDRAWN = "mog/08_lqr"
every_notebook = pytest.mark.parametrize("path", SOURCES, ids=NAMES)


def cells(path: Path, kind: str) -> list:
    return [c for c in jupytext.read(path, fmt="py:percent").cells if c.cell_type == kind]


def lines_of_code(cell) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


@every_notebook
def test_title_asks_one_question(path):
    title = cells(path, "markdown")[0].source.splitlines()[0]
    assert title.startswith("# ")
    assert title.endswith("?")


@every_notebook
def test_cells_are_short(path):
    lengths = [lines_of_code(cell) for cell in cells(path, "code")]
    assert statistics.median(lengths) <= 8
    assert max(lengths) <= 25
    assert 20 <= len(lengths) + len(cells(path, "markdown")) <= 40


@every_notebook
def test_there_is_more_prose_than_code(path):
    words = sum(len(cell.source.split()) for cell in cells(path, "markdown"))
    assert words >= 3 * sum(lines_of_code(cell) for cell in cells(path, "code"))


@every_notebook
def test_functions_longer_than_ten_lines_live_in_the_library(path):
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    assert all(f.end_lineno - f.lineno < 10 for f in functions)


@every_notebook
def test_pair_agrees_with_its_source(path):
    from matchbook.lab.notebook import find_notebook, pair_agrees

    assert pair_agrees(find_notebook(str(path), ROOT)), "run `matchbook figures` and commit"


@every_notebook
def test_no_cell_ends_in_what_only_a_program_reads(path):
    """A plotting call in a cell's last line shows matplotlib's objects, with their addresses."""
    committed = jupytext.read(path.with_suffix(".ipynb")).cells
    outputs = [out for cell in committed for out in cell.get("outputs", [])]
    assert outputs
    results = [out for out in outputs if out.output_type == "execute_result"]
    for text in (result.data.get("text/plain", "") for result in results):
        assert not text.startswith(("[Text(", "Text(", "[<")), text
        assert " at 0x" not in text, text


def users_environment() -> dict[str, str]:
    """Without what the tests set for themselves."""
    ours = ("PYTEST", "JAX", "XLA")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def drawn(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.suffix in {".svg", ".png", ".csv"}}


@pytest.mark.timeout(3600)
def test_make_reproduce_computes_at_smoke_whatever_laptop_publishes():
    """Every notebook, through papermill, from nothing: published records are not looked at."""
    shutil.rmtree(ROOT / "runs" / "reproduce" / "smoke", ignore_errors=True)
    command = ["make", "--no-print-directory", "reproduce", "PROFILE=smoke"]
    run = subprocess.run(command, cwd=ROOT, env=users_environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    figures = ROOT / "runs" / "reproduce" / "smoke" / "figures" / "smoke"
    for name in NAMES:
        assert drawn(figures / name) == drawn(ROOT / "figures" / "laptop" / name), name
    wrong = [row for row in ledger(ROOT, figures.parent, profiles=("smoke",)) if contradicts(row)]
    assert not wrong


def contradicts(row) -> bool:
    """An exact claim is arithmetic: what tiny sizes compute must already agree with it."""
    return row.claim.kind == "exact" and "contradicted" in map(str, row.verdicts.values())


def test_what_is_lost_of_a_notebook_is_redrawn_byte_for_byte(tmp_path):
    """Its pair, its pictures and the gallery, in a copy of the checkout. That all notebooks draw
    what is published is a part of `make notebooks`.
    """
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    copied = [Path(name) for name in files.splitlines() if (ROOT / name).is_file()]
    lost = [
        path
        for path in copied
        if path == Path("figures/index.html")
        or path == Path(f"notebooks/{REDRAWN}.ipynb")
        or path.is_relative_to(f"figures/laptop/{REDRAWN}")
    ]
    assert len(lost) > 5
    for path in copied:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if path not in lost:
            shutil.copy(ROOT / path, tmp_path / path)
    command = [sys.executable, "-m", "matchbook.lab.command_line", "figures", REDRAWN]
    run = subprocess.run(
        command, cwd=tmp_path, env=users_environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert [str(p) for p in copied if (tmp_path / p).read_bytes() != (ROOT / p).read_bytes()] == []
