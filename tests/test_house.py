"""The house rules that a machine can check: floors, file sizes, light imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "lib" / "matchbook"
FLOOR = {
    "divergences": 1,
    "gemma": 2,
    "critics": 2,
    "distill": 3,
    "bond": 3,
    "control": 3,
    "corpus": 4,
    "lab": 4,
}
MODULES = sorted(p for p in LIBRARY.rglob("*.py") if p.parent != LIBRARY or p.stem in FLOOR)


def room(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the library that a module imports, anywhere in it, absolutely or relatively."""
    package = ["matchbook", *path.relative_to(LIBRARY).parts[:-1]]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [module] + [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [name.split(".") for name in names]
        rooms |= {p[1] for p in parts if p[0] == "matchbook" and len(p) > 1 and p[1] in FLOOR}
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_a_room_imports_only_from_floors_below(path):
    above = {r for r in imported_rooms(path) if r != room(path) and FLOOR[r] >= FLOOR[room(path)]}
    assert not above, f"{room(path)} (floor {FLOOR[room(path)]}) may not import {above}"


def test_every_room_has_a_floor():
    assert {p.name for p in LIBRARY.iterdir() if (p / "__init__.py").exists()} < set(FLOOR)


def test_files_are_small():
    long = {
        str(p.relative_to(ROOT)): lines
        for p in [*LIBRARY.rglob("*.py"), *(ROOT / "notebooks").rglob("*.py")]
        if (lines := len(p.read_text().splitlines())) > 500
    }
    assert not long


def test_the_lab_starts_without_jax():
    """Replaying a notebook and the command line must not wait for jax to be imported."""
    code = "import sys, matchbook.lab; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
