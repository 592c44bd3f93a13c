"""The gallery: one page with every picture, its numbers, its passport, and the ledger.

It needs no server and no network: the template `gallery.html` holds style and script, pictures are
linked relatively. Unusual: nothing is written by hand, not even a caption: it is the alt text.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from itertools import groupby
from os.path import relpath
from pathlib import Path
from string import Template
from typing import Any

from matchbook.lab.claim_rows import KINDS
from matchbook.lab.claims import MARKS, LedgerRow, Verdict, ledger
from matchbook.lab.notebook import all_notebooks
from matchbook.lab.numbers import FILE
from matchbook.lab.profiles import PROFILES
from matchbook.lab.records import write_text

__all__ = ["Picture", "find_pictures", "write_gallery"]

PAPERS = {
    "gemma2": ("Gemma 2", "2408.00118", "A small model learns from a large one's probabilities."),
    "bond": ("BOND", "2407.14622", "A policy learns to answer like the best of N samples."),
    "mog": ("MoG critics", "2204.10256", "A critic learns the whole law of the return."),
}
CSS = {
    Verdict.REPRODUCED: "good",
    Verdict.UNDECIDED: "open",
    Verdict.CONTRADICTED: "bad",
    Verdict.NOT_RUN: "none",
}
PIXELS_PER_INCH = 112
SHOWN_FIRST = ("laptop", "gpu", "paper", "smoke")
WIDE = 7.5  # inches: wider pictures take a whole row


@dataclass(frozen=True)
class Picture:
    """A figure found on disk: its folder, and its passport as `save_figure` wrote it."""

    folder: Path
    passport: dict[str, Any]

    def file(self, ending: str) -> Path:
        """The path of one of the figure's files."""
        return self.folder / f"{self.passport['name']}.{ending}"


def find_pictures(figures: Path) -> list[Picture]:
    """Every figure under `<figures>/<profile>/`, by profile, notebook and name."""
    found = []
    for profile in PROFILES:
        for path in sorted((Path(figures) / profile).rglob("*.json")):
            passport = json.loads(path.read_text(encoding="utf-8"))
            if "alt" in passport:  # the passport of numbers.csv has none
                found.append(Picture(path.parent, passport))
    return sorted(found, key=_place)


def write_gallery(root: Path, figures: Path | None = None) -> Path:
    """Write `<figures>/index.html` and return its path.

    Args:
        root: the checkout: notebooks' titles, and numbers that `figures` lacks.
        figures: the folder of pictures; `<root>/figures` by default.
    """
    figures = Path(root) / "figures" if figures is None else Path(figures)
    pictures = find_pictures(figures)
    profiles = [p for p in SHOWN_FIRST if any(x.passport["profile"] == p for x in pictures)]
    rows = ledger(root, figures, profiles or ["laptop"])
    titles = {notebook.name: notebook.title for notebook in all_notebooks(Path(root))}
    page = _Page(Path(root), figures, pictures, profiles, rows, titles)
    template = resources.files("matchbook.lab").joinpath("gallery.html").read_text("utf-8")
    write_text(figures / "index.html", Template(template).substitute(page.parts()))
    return figures / "index.html"


def _place(picture: Picture) -> tuple[int, int, str, str]:
    notebook = picture.passport["notebook"]
    room = notebook.split("/")[0]
    order = list(PAPERS).index(room) if room in PAPERS else -1
    profile = SHOWN_FIRST.index(picture.passport["profile"])
    return order, profile, notebook, picture.passport["name"]


@dataclass(frozen=True)
class _Page:
    root: Path
    figures: Path
    pictures: list[Picture]
    profiles: list[str]
    rows: list[LedgerRow]
    titles: dict[str, str]

    def parts(self) -> dict[str, str]:
        """What the template's placeholders stand for."""
        sections = [("start", "Start here", "", "What the three papers share.")]
        sections += [(room, *about) for room, about in PAPERS.items()]
        filled = {room: html for room, *about in sections if (html := self.section(room, *about))}
        names = {room: name for room, name, *_ in sections if room in filled}
        links = "".join(f'<a href="#{r}">{escape(n)}</a>' for r, n in names.items())
        return {
            "bell": _bell(),
            "tally": "".join(self.tally(p) for p in self.rows[0].verdicts) if self.rows else "",
            "links": links + '<a href="#ledger">Ledger</a>',
            "switch": "".join(f'<button value="{p}">{p}</button>' for p in self.profiles),
            "sections": "\n".join(filled.values()),
            "papers": _options({room: about[0] for room, about in PAPERS.items()}),
            "kinds": _options({kind: kind for kind in KINDS}),
            "verdicts": _options({str(v): str(v) for v in CSS}),
            "ledger": self.table(),
        }

    def tally(self, profile: str) -> str:
        """How many claims have which verdict, as a bar and in words."""
        counts = Counter(row.verdicts[profile] for row in self.rows)
        order = [v for v in CSS if counts[v]]
        bar = "".join(f'<i class="{CSS[v]}" style="flex:{counts[v]}"></i>' for v in order)
        words = "".join(f"<span>{MARKS[v]} {counts[v]} {v}</span>" for v in order)
        return (
            f'<div class="row"><span class="name">{profile}</span>'
            f'<div class="bar" aria-hidden="true">{bar}</div><div class="words">{words}</div></div>'
        )

    def section(self, room: str, name: str, arxiv: str, about: str) -> str:
        """All notebooks of a paper; nothing where there are no pictures."""
        mine = [p for p in self.pictures if _room(p.passport["notebook"]) == room]
        if not mine:
            return ""
        notebooks = sorted({p.passport["notebook"] for p in mine})
        source = f' <a href="https://arxiv.org/abs/{arxiv}">arXiv {arxiv}</a>' if arxiv else ""
        articles = "\n".join(
            self.article(notebook, [p for p in mine if p.passport["notebook"] == notebook])
            for notebook in notebooks
        )
        return (
            f'<section id="{room}"><div class="wrap"><h2>{escape(name)}</h2>'
            f'<p class="about">{escape(about)}{source}</p>\n{articles}</div></section>'
        )

    def article(self, notebook: str, pictures: Sequence[Picture]) -> str:
        """One notebook: its title, its claims' verdicts and its pictures, profile by profile."""
        href = self.link(self.root / "notebooks" / f"{notebook}.ipynb")
        html = [
            f'<article id="{notebook}"><header><h3><a href="{href}">'
            f"{escape(self.titles.get(notebook, notebook))}</a></h3>"
            f'<span class="path">{escape(notebook)}</span></header>'
        ]
        claims = [row for row in self.rows if row.claim.notebook == notebook]
        for profile, group in groupby(pictures, key=lambda p: p.passport["profile"]):
            badges = "".join(f"<li>{_claim_badge(row, profile)}</li>" for row in claims)
            cards = "\n".join(self.card(picture) for picture in group)
            html.append(
                f'<ul class="badges" data-profile="{profile}" aria-label="Claims">{badges}</ul>'
                f'<div class="grid" data-profile="{profile}">{cards}</div>'
            )
        html.append('<p class="empty" hidden>Not run at this profile yet.</p></article>')
        return "\n".join(html)

    def card(self, picture: Picture) -> str:
        """One picture with its caption, and links to its files."""
        about, alt = picture.passport, escape(picture.passport["alt"], quote=True)
        width, height = _size(picture.file("svg"))
        mark = '<span class="smoke-mark badge bad">smoke</span>' if about["smoke"] else ""
        files = {"picture": "svg", "numbers": "csv", "passport": "json"}
        links = [f'<a href="{self.link(picture.file(e))}">{n}</a>' for n, e in files.items()]
        if (picture.folder / FILE).exists():
            links.insert(2, f'<a href="{self.link(picture.folder / FILE)}">ledger numbers</a>')
        made = "".join(f"<span>{part}</span>" for part in [*links, *_made(about)])
        return (
            f"<figure{' class=wide' if width > WIDE * PIXELS_PER_INCH else ''}>"
            f'<a class="picture" href="{self.link(picture.file("svg"))}">{mark}'
            f'<img src="{self.link(picture.file("svg"))}" alt="{alt}" width="{width}" '
            f'height="{height}" style="max-width:{width}px" loading="lazy"></a>'
            f'<figcaption>{alt}<div class="made">{made}</div></figcaption></figure>'
        )

    def table(self) -> str:
        """The ledger; a click on a badge above leads to its row."""
        profiles = list(self.rows[0].verdicts) if self.rows else []
        heads = ["Claim", "What is claimed", "Kind", *profiles]
        head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
        body = "\n".join(self.row(row) for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"

    def row(self, row: LedgerRow) -> str:
        """One claim."""
        claim = row.claim
        verdicts = "".join(
            f'<td class="verdict">{_badge(verdict, str(verdict))}'
            f'<span class="why">{escape(row.reasons[profile])}</span></td>'
            for profile, verdict in row.verdicts.items()
        )
        return (
            f'<tr id="{claim.id}" data-paper="{claim.paper}" data-kind="{claim.kind}" '
            f'data-verdicts="{",".join(row.verdicts.values())}">'
            f'<td class="place"><span class="where">{escape(claim.where)}</span>'
            f'<span class="id">{claim.id}</span></td>'
            f'<td class="statement">{escape(claim.statement)}</td>'
            f'<td><span class="kind">{claim.kind}</span>'
            f'<span class="source">{escape(claim.source)}</span></td>{verdicts}</tr>'
        )

    def link(self, path: Path) -> str:
        """A path as seen from the page."""
        return escape(Path(relpath(path, self.figures)).as_posix(), quote=True)


def _room(notebook: str) -> str:
    return notebook.split("/")[0] if "/" in notebook else "start"


def _options(values: dict[str, str]) -> str:
    return "".join(f'<option value="{v}">{escape(text)}</option>' for v, text in values.items())


def _badge(verdict: Verdict, text: str) -> str:
    mark = f'<span aria-hidden="true">{MARKS[verdict]}</span>'
    return f'<span class="badge {CSS[verdict]}">{mark}{escape(text)}</span>'


def _claim_badge(row: LedgerRow, profile: str) -> str:
    verdict = row.verdicts[profile]
    title = escape(f"{row.claim.where}: {row.claim.statement} ({verdict})", quote=True)
    name = row.claim.id.removeprefix(f"{row.claim.paper}-").replace("-", " ")
    return (
        f'<a class="badge {CSS[verdict]}" href="#{row.claim.id}" title="{title}">'
        f'<span aria-hidden="true">{MARKS[verdict]}</span>{escape(name)}'
        f'<span class="visually-hidden">: {verdict}</span></a>'
    )


def _made(passport: dict[str, Any]) -> Iterable[str]:
    """How a picture's runs were made, in a few words."""
    made, count = passport["made_by"], len(passport["records"])
    yield f"{count} run{'s' * (count != 1)}"
    if isinstance(seconds := made.get("wall_seconds"), int | float):
        yield f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.1f} s"
    if isinstance(device := made.get("device_kind"), str):
        yield f"on {escape(device)}"
    if isinstance(commit := made.get("commit"), str):
        yield f"commit {escape(commit[:7])}"


def _size(svg: Path) -> tuple[int, int]:
    """Width and height at which a picture's text is about as large as the page's."""
    head = svg.read_text(encoding="utf-8")[:2000]
    points = (
        re.search(r'<svg[^>]* height="([\d.]+)pt"', head),
        re.search(r'width="([\d.]+)pt"', head),
    )
    height, width = (float(found[1]) / 72 * PIXELS_PER_INCH if found else 0.0 for found in points)
    return round(width), round(height)


def _bell() -> str:
    """A normal density as an SVG path, in the 440 x 220 box of the page's head."""
    points = ((x, 200 - 175 * math.exp(-(((x - 250) / 62) ** 2) / 2)) for x in range(0, 441, 8))
    return "M" + " L".join(f"{x} {y:.1f}" for x, y in points)
