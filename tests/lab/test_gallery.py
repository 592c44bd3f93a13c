"""The gallery page and the README's tables: complete, self-contained, the same each time."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from matchbook.lab import figures
from matchbook.lab.gallery import find_pictures, write_gallery
from matchbook.lab.numbers import write_numbers
from matchbook.lab.readme import readme_table, timings_table, update_readme
from matchbook.lab.records import Record, write_record

CLAIM = """
[[claim]]
id = "{paper}-{name}"
paper = "{paper}"
where = "Table 1"
statement = "A <b>bold</b> & quoted claim."
kind = "exact"
source = "paper text"
notebook = "{paper}/01_book"
tests = [{{ number = "n", equals = {equals} }}]
"""
README = """# Title
<!-- ledger:begin -->
<!-- ledger:end -->
between \\1
<!-- timings:begin -->
old
<!-- timings:end -->
end
"""


def alt(name: str) -> str:
    return f'What {name} shows: a < b & "c", in enough words.'


@pytest.fixture
def checkout(drawn: Path, tmp_path: Path) -> Path:
    """A checkout of one's own."""
    return Path(shutil.copytree(drawn, tmp_path / "checkout"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two notebooks, drawn at laptop and smoke, with one claim reproduced and one contradicted."""
    tmp_path = tmp_path_factory.mktemp("drawn")
    claims = [("gemma2", "good", 1), ("gemma2", "bad", 2), ("bond", "other", 1)]
    rows = [CLAIM.format(paper=p, name=n, equals=e) for p, n, e in claims]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "claims.toml").write_text("".join(rows))
    (tmp_path / "README.md").write_text(README)
    for paper in ("gemma2", "bond"):
        notebook = f"{paper}/01_book"
        source = tmp_path / "notebooks" / f"{notebook}.py"
        source.parent.mkdir()
        source.write_text(f"# %% [markdown]\n# # What is {paper} & co?\n")
        for profile in ("laptop", "smoke"):
            folder = tmp_path / "figures" / profile / notebook
            passport = {"wall_seconds": 90.0, "device_kind": "cpu", "device_platform": "cpu"}
            record = Record(
                experiment=notebook,
                version=1,
                arm="exact",
                seed=0,
                params={},
                numbers={"n": 1.0},
                passport={**passport, "profile": "laptop", "cpu_count": 2, "commit": "0123456789"},
            )
            write_record(record, tmp_path / "figures" / "records" / notebook)
            write_numbers(folder, {"n": 1}, records=[record])
            for name, width in (("tall", 4.0), ("wide", 9.0)):
                fig, ax = figures.subplots(width=width)
                ax.plot([0, 1], [0, 1])
                figures.save_figure(
                    fig,
                    folder,
                    name,
                    numbers=pd.DataFrame({"x": [0, 1]}),
                    alt=alt(f"{profile} {paper} {name}"),
                    records=[record],
                    smoke=profile == "smoke",
                    notebook=notebook,
                    profile=profile,
                )
    return tmp_path


class Page(HTMLParser):
    """Collects elements and checks that they are nested as they should be."""

    VOID = frozenset({"meta", "img", "input", "link", "br"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_holds_every_picture_with_its_alt_text(checkout: Path):
    path = write_gallery(checkout)
    page = Page(path.read_text())
    pictures = find_pictures(checkout / "figures")
    assert len(pictures) == 8
    shown = {image["alt"]: image["src"] for image in page.all("img")}
    assert set(shown) == {picture.passport["alt"] for picture in pictures}
    assert alt("smoke gemma2 wide") in shown
    for picture in pictures:
        assert (path.parent / shown[picture.passport["alt"]]) == picture.file("svg")


def test_every_link_of_the_page_leads_somewhere_beside_it(checkout: Path):
    path = write_gallery(checkout)
    page = Page(path.read_text())
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for tag, attribute in (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")):
        for target in (element[attribute] for element in page.all(tag) if attribute in element):
            if target.startswith("#"):
                assert target[1:] in ids
            elif target.startswith("https://arxiv.org/abs/"):
                assert tag == "a"
            elif not target.endswith(".ipynb"):  # pairs are made by the runner
                assert (path.parent / target).exists(), target
    assert not re.search(r"(src|url\(|@import)\s*[=(]?\s*[\"']?https?:", path.read_text())


def test_the_page_tells_verdicts_smoke_and_wide(checkout: Path):
    page = Page(write_gallery(checkout).read_text())
    rows = {row["id"]: row["data-verdicts"] for row in page.all("tr") if "id" in row}
    assert rows == {
        "gemma2-good": "reproduced,reproduced",
        "gemma2-bad": "contradicted,contradicted",
        "bond-other": "reproduced,reproduced",
    }
    badges = [link["class"] for link in page.all("a") if link.get("href") == "#gemma2-bad"]
    assert badges == ["badge bad"] * 2
    marks = [span for span in page.all("span") if "smoke-mark" in span.get("class", "")]
    assert len(marks) == 4
    assert [figure.get("class") for figure in page.all("figure")].count("wide") == 4


def test_the_page_is_the_same_each_time_and_works_without_pictures(checkout: Path):
    first = write_gallery(checkout).read_bytes()
    assert write_gallery(checkout).read_bytes() == first
    empty = checkout / "runs" / "figures"
    page = Page(write_gallery(checkout, empty).read_text())
    assert not page.all("img")
    assert len([row for row in page.all("tr") if "id" in row]) == 3


def test_the_readme_tables_are_stable_and_complete(checkout: Path):
    table = readme_table(checkout)
    assert table == readme_table(checkout)
    notebooks, papers = table.split("\n\n")
    assert notebooks.index("What is gemma2") < notebooks.index("What is bond")
    assert "[tall](figures/laptop/gemma2/01_book/tall.svg)" in notebooks
    assert "✓ 1 reproduced, ✗ 1 contradicted" in notebooks
    assert "smoke" not in table
    assert "| BOND | 1 | ✓ 1 reproduced | · 1 not run |" in papers
    assert len({line.count("|") for line in notebooks.splitlines()}) == 1
    assert "| `bond/01_book` | 1.5 min on 2 CPU cores |  |" in timings_table(checkout)


def test_the_readme_is_filled_between_its_markers_only(checkout: Path):
    assert update_readme(checkout)
    text = (checkout / "README.md").read_text()
    assert text.startswith("# Title\n<!-- ledger:begin -->\n| notebook |")
    assert "<!-- ledger:end -->\nbetween \\1\n<!-- timings:begin -->\n| notebook |" in text
    assert "old" not in text
    assert text.endswith("<!-- timings:end -->\nend\n")
    assert not update_readme(checkout)
    assert (checkout / "README.md").read_text() == text
    (checkout / "README.md").write_text("# Title\n")
    with pytest.raises(ValueError, match="ledger:begin"):
        update_readme(checkout)
