"""The ledger: every claim with its verdict at each profile; ours beside published and paper.

Unusual: verdicts are computed whenever they are shown, from `numbers.csv` files alone; there is no
file of verdicts that could be edited or grow stale.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from matchbook.lab.claim_rows import Claim, Test, load_claims
from matchbook.lab.numbers import FILE, Number, read_numbers
from matchbook.lab.verdicts import Verdict, agree, evaluate

__all__ = [
    "Comparison",
    "LedgerRow",
    "Verdict",
    "comparison",
    "comparison_table",
    "format_table",
    "ledger",
    "ledger_table",
    "load_claims",
]

MARKS = {
    Verdict.REPRODUCED: "✓",
    Verdict.UNDECIDED: "≈",
    Verdict.CONTRADICTED: "✗",
    Verdict.NOT_RUN: "·",
}
Style = Literal["terminal", "markdown", "html"]


@dataclass(frozen=True)
class LedgerRow:
    """One claim; `verdicts` and `reasons` by profile, for the profiles that were asked for."""

    claim: Claim
    verdicts: dict[str, Verdict]
    reasons: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """One number of one claim: ours now, ours as published, the paper's (or its condition).

    `agrees` is "yes", "no", "not run" (missing now) or "new" (nothing published to compare with).
    """

    claim: str
    number: str
    now: Number | None
    published: Number | None
    paper: str
    agrees: str
    verdict: Verdict

    @property
    def failed(self) -> bool:
        """True where a published number was not met again."""
        return self.agrees in ("no", "not run")


def ledger(
    root: Path, runs_figures: Path | None = None, profiles: Sequence[str] = ("laptop", "gpu")
) -> list[LedgerRow]:
    """Every claim of `<root>/notebooks/claims.toml` with its verdicts.

    Args:
        root: the checkout.
        runs_figures: a folder of new figures; a notebook's numbers there go before the published
            ones in `<root>/figures`.
        profiles: which profiles to look at.
    """
    folders = [Path(root) / "figures"]
    if runs_figures is not None:
        folders.insert(0, Path(runs_figures))
    numbers, rows = _Numbers(), []
    for claim in load_claims(Path(root) / "notebooks" / "claims.toml"):
        found = {profile: numbers.first(folders, profile, claim.notebook) for profile in profiles}
        judged = {profile: evaluate(claim, found[profile]) for profile in profiles}
        rows.append(
            LedgerRow(
                claim,
                {profile: verdict for profile, (verdict, _) in judged.items()},
                {profile: reason for profile, (_, reason) in judged.items()},
            )
        )
    return rows


def comparison(root: Path, runs_figures: Path, profile: str) -> list[Comparison]:
    """Ours now, published and the paper's, for every number that a claim tests.

    Where nothing is published for the profile (smoke never is), exact claims are compared with the
    numbers of laptop: they do not depend on sizes and seeds.
    """
    figures, numbers, rows = Path(root) / "figures", _Numbers(), []
    for claim in load_claims(Path(root) / "notebooks" / "claims.toml"):
        ours = numbers.first([runs_figures], profile, claim.notebook)
        published = numbers.first([figures], profile, claim.notebook)
        if published is None and claim.kind == "exact":
            published = numbers.first([figures], "laptop", claim.notebook)
        for test in claim.tests:
            now, then = (ours or {}).get(test.number), (published or {}).get(test.number)
            rows.append(
                Comparison(
                    claim=claim.id,
                    number=test.number,
                    now=now,
                    published=then,
                    paper=test.expected,
                    agrees=_agrees(claim, test, now, then),
                    verdict=evaluate(claim, ours)[0],
                )
            )
    return rows


def _agrees(claim: Claim, test: Test, now: Number | None, then: Number | None) -> str:
    if now is None:
        return "not run"
    if then is None:
        return "new"
    return "yes" if agree(claim, test, now, then) else "no"


class _Numbers:
    """Reads each `numbers.csv` once."""

    def __init__(self) -> None:
        self.read: dict[Path, dict[str, Number] | None] = {}

    def first(
        self, folders: Iterable[Path], profile: str, notebook: str | None
    ) -> dict[str, Number] | None:
        """The numbers of a notebook from the first folder that has them."""
        if notebook is None:
            return None
        for folder in folders:
            path = Path(folder) / profile / notebook
            if path not in self.read:
                self.read[path] = read_numbers(path) if (path / FILE).exists() else None
            if self.read[path] is not None:
                return self.read[path]
        return None


def ledger_table(rows: Sequence[LedgerRow], style: Style = "terminal") -> str:
    """The ledger as text: claim, place, kind, and for each profile the verdict and its reason."""
    profiles = list(rows[0].verdicts) if rows else []
    body = []
    for row in rows:
        verdicts = [f"{MARKS[row.verdicts[p]]} {row.verdicts[p]}" for p in profiles]
        reasons = dict.fromkeys(row.reasons[p] for p in profiles)
        body.append([row.claim.id, row.claim.where, row.claim.kind, *verdicts, "; ".join(reasons)])
    return format_table(["claim", "where", "kind", *profiles, "why"], body, style)


def comparison_table(rows: Sequence[Comparison], style: Style = "terminal") -> str:
    """Ours now, published, paper: the table that `make reproduce` ends with."""
    body = [
        [
            row.claim,
            row.number,
            "" if row.now is None else str(row.now),
            "" if row.published is None else str(row.published),
            row.paper,
            row.agrees,
            f"{MARKS[row.verdict]} {row.verdict}",
        ]
        for row in rows
    ]
    header = ["claim", "number", "ours now", "published", "paper", "agrees", "verdict"]
    return format_table(header, body, style)


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], style: Style) -> str:
    """A table of text cells, aligned for a terminal, or as Markdown or HTML."""
    body = [[str(cell) for cell in row] for row in rows]
    if style == "html":
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body)
        rows_html = "\n".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows_html}\n</tbody>\n</table>"
    if style == "markdown":
        lines = [list(header), ["---"] * len(header), *body]
        return "\n".join(f"| {' | '.join(c.replace('|', '\\|') for c in line)} |" for line in lines)
    if style != "terminal":
        raise ValueError(f"style must be 'terminal', 'markdown' or 'html', got {style!r}")
    widths = [max(map(len, column)) for column in zip(header, *body)]
    lines = [list(header), ["─" * width for width in widths], *body]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)
