"""The generated parts of the README: what comes out, and what it takes.

They stand between `<!-- ledger:begin -->` and `<!-- ledger:end -->`, and likewise for `timings`.
Unusual: only published pictures, numbers and records count, so the README says what anyone sees
who clones it.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from matchbook.lab.claims import MARKS, LedgerRow, format_table, ledger
from matchbook.lab.gallery import PAPERS, find_pictures
from matchbook.lab.notebook import Notebook, all_notebooks
from matchbook.lab.planning import cost

__all__ = ["readme_table", "timings_table", "update_readme"]

PROFILES = ("laptop", "gpu")


def readme_table(root: Path) -> str:
    """Every notebook with its pictures and its claims' verdicts; then the claims by paper."""
    root = Path(root)
    rows = ledger(root, profiles=PROFILES)
    pictures = find_pictures(root / "figures")
    body = []
    for notebook in _in_order(root):
        drawn = {
            picture.passport["name"]: f"figures/{profile}/{notebook.name}"
            for profile in reversed(PROFILES)
            for picture in pictures
            if picture.passport["notebook"] == notebook.name
            and picture.passport["profile"] == profile
        }
        links = [f"[{name.replace('_', ' ')}]({drawn[name]}/{name}.svg)" for name in sorted(drawn)]
        mine = [row for row in rows if row.claim.notebook == notebook.name]
        title = f"[{notebook.title}](notebooks/{notebook.name}.ipynb)"
        body.append([title, ", ".join(links), *(_verdicts(mine, profile) for profile in PROFILES)])
    claims = [
        [name, str(len(mine)), *(_verdicts(mine, profile) for profile in PROFILES)]
        for paper, (name, *_) in PAPERS.items()
        if (mine := [row for row in rows if row.claim.paper == paper])
    ]
    tables = [
        format_table(["notebook", "pictures", *PROFILES], body, "markdown"),
        format_table(["paper", "claims", *PROFILES], claims, "markdown"),
    ]
    return "\n\n".join(tables)


def timings_table(root: Path) -> str:
    """What each notebook's published runs took, all arms and seeds one after the other."""
    body = []
    for notebook in _in_order(root):
        costs = [cost(notebook, profile, Path(root)) for profile in PROFILES]
        if any(costs):
            body.append([f"`{notebook.name}`", *("" if c is None else str(c) for c in costs)])
    return format_table(["notebook", *PROFILES], body, "markdown") if body else "Nothing yet."


def update_readme(root: Path) -> bool:
    """Fill the generated parts of `<root>/README.md`; True where that changed it.

    Raises:
        ValueError: a pair of markers is missing; names it.
    """
    path = Path(root) / "README.md"
    text = new = path.read_text(encoding="utf-8")
    for name, content in {"ledger": readme_table(root), "timings": timings_table(root)}.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(new)) != 1:
            raise ValueError(f"{path}: expected {begin} and, after it, {end}, once each")
        filled = f"{begin}\n{content}\n{end}"
        new = pattern.sub(lambda _, filled=filled: filled, new)
    if new != text:
        path.write_text(new, encoding="utf-8")
    return new != text


def _in_order(root: Path) -> list[Notebook]:
    """All notebooks, papers in the book's order."""
    rooms = list(PAPERS)

    def place(notebook: Notebook) -> tuple[int, str]:
        room = notebook.name.split("/")[0]
        return (rooms.index(room) if room in rooms else -1), notebook.name

    return sorted(all_notebooks(Path(root)), key=place)


def _verdicts(rows: Iterable[LedgerRow], profile: str) -> str:
    """For example "✓ 15 reproduced, ≈ 1 undecided"; empty where there is nothing to decide."""
    counts = Counter(row.verdicts[profile] for row in rows)
    return ", ".join(f"{MARKS[v]} {counts[v]} {v}" for v in MARKS if counts[v])
