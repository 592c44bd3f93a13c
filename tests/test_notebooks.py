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


def drawn(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.suffix in {".svg", ".png", ".csv"}}


@pytest.mark.timeout(3600)
def test_make_reproduce_computes_at_smoke_whatever_laptop_publishes():
    """Every notebook, through papermill, from nothing: published records are not looked at."""
    shutil.rmtree(ROOT / "runs" / "reproduce" / "smoke", ignore_errors=True)
    command = ["make", "--no-print-directory", "reproduce", "PROFILE=smoke"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "JAX"))}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    figures = ROOT / "runs" / "reproduce" / "smoke" / "figures" / "smoke"
    for name in NAMES:
        assert drawn(figures / name) == drawn(ROOT / "figures" / "laptop" / name), name
    wrong = [row for row in ledger(ROOT, figures.parent, profiles=("smoke",)) if contradicts(row)]
    assert not wrong


def contradicts(row) -> bool:
    """An exact claim is arithmetic: what tiny sizes compute must already agree with it."""
    return row.claim.kind == "exact" and "contradicted" in map(str, row.verdicts.values())


def test_pictures_redraw_byte_for_byte_from_published_records(tmp_path):
    """As `make figures` does when all pictures and pairs are gone, in a copy of the checkout."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    copied = [Path(name) for name in files.splitlines() if (ROOT / name).is_file()]
    for name in copied:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.suffix not in {".png", ".svg", ".ipynb"}:
            shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "matchbook.lab.command_line", "figures"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    generated = [n for n in copied if n.parts[0] == "figures" or n.suffix == ".ipynb"]
    assert generated
    assert [
        str(n) for n in generated if (tmp_path / n).read_bytes() != (ROOT / n).read_bytes()
    ] == []
