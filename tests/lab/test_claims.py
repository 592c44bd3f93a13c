"""Claims: the ledger of this repository, the grammar, and every verdict that a test can give."""

import math
from collections import Counter
from pathlib import Path

import pytest

from matchbook.lab.claim_rows import KINDS, PAPERS, Claim, Test, load_claims
from matchbook.lab.claims import comparison, comparison_table, ledger, ledger_table
from matchbook.lab.numbers import Number, write_numbers
from matchbook.lab.statistics import Interval
from matchbook.lab.verdicts import Verdict, agree, evaluate, verdict_of

ROOT = Path(__file__).parents[2]
LEDGER = load_claims(ROOT / "notebooks" / "claims.toml")
REPRODUCED, CONTRADICTED, UNDECIDED, NOT_RUN = (
    Verdict.REPRODUCED,
    Verdict.CONTRADICTED,
    Verdict.UNDECIDED,
    Verdict.NOT_RUN,
)


# The repository's own ledger


def test_the_ledger_holds_every_claim_of_the_papers():
    ids = {claim.id for claim in LEDGER}
    assert len(ids) == len(LEDGER)
    assert Counter(claim.paper for claim in LEDGER) == {"gemma2": 41, "bond": 33, "mog": 30}
    assert {f"gemma2-table-{i:02}" for i in range(1, 18)} <= ids
    assert {f"bond-figure-{i:02}" for i in range(1, 11)} <= ids
    assert {f"mog-m{i}" for i in range(1, 6)} == {
        i[:6] for i in ids if i.startswith("mog-m") and i[5].isdigit()
    }
    assert {claim.kind for claim in LEDGER} == set(KINDS)


@pytest.mark.parametrize("claim", LEDGER, ids=lambda claim: claim.id)
def test_each_row_makes_sense(claim: Claim):
    assert claim.statement.endswith(".")
    assert len(claim.statement) > 25
    if claim.notebook is not None:
        assert claim.kind in ("exact", "mechanism"), "the others cannot be tested by a notebook"
        assert (ROOT / "notebooks" / f"{claim.notebook}.py").exists()
    if claim.kind == "exact":
        near = [test for test in claim.tests if test.condition == "near"]
        wide = [t.number for t in near if t.within > max(0.02 * abs(t.bound), 1e-3)]
        assert not wide, f"agreement to the digits printed has no such tolerance: {wide}"


# The grammar

ROW = """
[[claim]]
id = "bond-x"
paper = "bond"
where = "Eq. 1"
statement = "One is one."
kind = "exact"
source = "derived"
"""
TESTED = ROW + 'notebook = "bond/x"\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "claims.toml"
    path.write_text(text)
    return path


def test_a_whole_row_is_read(tmp_path: Path):
    tests = 'tests = [{ number = "kl", near = 0.14, within = 1e-9, paper = 0.1 }]\n'
    (claim,) = load_claims(write(tmp_path, TESTED + "values = [{ N = 2 }]\n" + tests))
    assert claim.values == ({"N": 2},)
    assert claim.notebook == "bond/x"
    assert claim.tests == (Test(number="kl", condition="near", bound=0.14, within=1e-9, paper=0.1),)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (ROW.replace("kind", "knd"), "'knd' is none of"),
        (ROW.replace("kind", "knd"), "did you mean 'kind'"),
        (ROW.replace('"exact"', '"exakt"'), "did you mean 'exact'"),
        (ROW.replace('paper = "bond"', 'paper = "bonds"'), "did you mean 'bond'"),
        (ROW.replace('"One is one."', '""'), "lacks statement"),
        (ROW.replace('where = "Eq. 1"\n', ""), "lacks where"),
        (ROW.replace('where = "Eq. 1"', "where = 1"), "where must be text"),
        (ROW.replace("bond-x", "mog-x"), "'bond-'"),
        (ROW + ROW, "bond-x"),
        (ROW + 'tests = [{ number = "a", equals = 1 }]', "no notebook"),
        (ROW + "values = [1]", "inline tables"),
        ('[claims]\nid = "x"', "[[claim]]"),
        (TESTED + 'tests = [{ number = "a", equal = 1 }]', "did you mean 'equals'"),
        (TESTED + 'tests = [{ number = "a" }]', "got none"),
        (TESTED + 'tests = [{ number = "a", below = 1, above = 0 }]', "['below', 'above']"),
        (TESTED + "tests = [{ equals = 1 }]", "number"),
        (TESTED + 'tests = [{ number = "a", near = 1 }]', "within"),
        (TESTED + 'tests = [{ number = "a", below = 1, within = 0.1 }]', "within"),
        (TESTED + 'tests = [{ number = "a", near = 1, within = -0.1 }]', "negative"),
        (TESTED + 'tests = [{ number = "a", below = "one" }]', "numbers"),
        (TESTED + 'tests = [{ number = "a", above = nan }]', "numbers"),
        (TESTED + 'tests = [{ number = "a", above = true }]', "numbers"),
        (TESTED + 'tests = [{ number = "a", between = 1 }]', "[low, high]"),
        (TESTED + 'tests = [{ number = "a", between = [2, 1] }]', "[low, high]"),
        (TESTED + 'tests = [{ number = "a", between = [1, 2, 3] }]', "[low, high]"),
        (TESTED + 'tests = [{ number = "a", equals = [1] }]', "equals"),
    ],
)
def test_a_malformed_row_is_refused_by_name(tmp_path: Path, text: str, named: str):
    with pytest.raises(ValueError, match="claim") as refusal:
        load_claims(write(tmp_path, text))
    assert named in str(refusal.value)


# Verdicts: an interval inside, outside and across, for each condition

BELOW = Test(number="x", condition="below", bound=1.0)
ABOVE = Test(number="x", condition="above", bound=1.0)
BETWEEN = Test(number="x", condition="between", bound=[1.0, 2.0])
NEAR = Test(number="x", condition="near", bound=1.0, within=0.25)
EQUALS = Test(number="x", condition="equals", bound=1)


@pytest.mark.parametrize(
    ("test", "low", "high", "verdict"),
    [
        (BELOW, -5.0, 0.9, REPRODUCED),
        (BELOW, 0.9, 1.1, UNDECIDED),
        (BELOW, 0.9, 1.0, UNDECIDED),
        (BELOW, 1.0, 1.1, CONTRADICTED),
        (BELOW, -math.inf, math.inf, UNDECIDED),
        (ABOVE, 1.1, 9.0, REPRODUCED),
        (ABOVE, 0.9, 1.1, UNDECIDED),
        (ABOVE, 1.0, 1.1, UNDECIDED),
        (ABOVE, 0.9, 1.0, CONTRADICTED),
        (BETWEEN, 1.0, 2.0, REPRODUCED),
        (BETWEEN, 1.2, 1.3, REPRODUCED),
        (BETWEEN, 0.9, 1.5, UNDECIDED),
        (BETWEEN, 1.5, 2.1, UNDECIDED),
        (BETWEEN, 0.0, 3.0, UNDECIDED),
        (BETWEEN, 0.0, 0.9, CONTRADICTED),
        (BETWEEN, 2.1, 3.0, CONTRADICTED),
        (NEAR, 0.75, 1.25, REPRODUCED),
        (NEAR, 0.7, 1.0, UNDECIDED),
        (NEAR, 0.0, 2.0, UNDECIDED),
        (NEAR, 1.26, 1.3, CONTRADICTED),
        (NEAR, 0.0, 0.74, CONTRADICTED),
        (EQUALS, 1.0, 1.0, REPRODUCED),
        (EQUALS, 0.9, 1.1, UNDECIDED),
        (EQUALS, 1.0 + 2e-16, 1.1, CONTRADICTED),
    ],
)
def test_a_verdict_looks_at_the_whole_interval(
    test: Test, low: float, high: float, verdict: Verdict
):
    assert verdict_of(test, Number((low + high) / 2, low, high)) is verdict


@pytest.mark.parametrize("test", [BELOW, ABOVE, BETWEEN, NEAR, EQUALS], ids=str)
def test_nan_decides_nothing_and_a_missing_number_was_not_run(test: Test):
    nan = math.nan
    assert verdict_of(test, Number(nan, nan, nan)) is UNDECIDED
    assert verdict_of(test, Number(1.5, nan, nan)) is UNDECIDED
    assert verdict_of(test, None) is NOT_RUN
    assert verdict_of(test, Number("1.5", "1.5", "1.5")) is CONTRADICTED


@pytest.mark.parametrize(
    ("bound", "value", "verdict"),
    [
        (True, True, REPRODUCED),
        (True, False, CONTRADICTED),
        (True, 1, CONTRADICTED),
        (1, True, CONTRADICTED),
        (1, 1.0, REPRODUCED),
        (590118912, 590118912.0, REPRODUCED),
        (590118912, 590118913, CONTRADICTED),
        ("local", "local", REPRODUCED),
        ("local", "global", CONTRADICTED),
        ("1", 1, CONTRADICTED),
    ],
)
def test_equals_is_exact_and_knows_kinds(bound: object, value: object, verdict: Verdict):
    test = Test(number="x", condition="equals", bound=bound)
    assert verdict_of(test, Number(value, value, value)) is verdict


def claim(*tests: Test, kind: str = "exact") -> Claim:
    return Claim(
        id="bond-x",
        paper=PAPERS[1],
        where="Eq. 1",
        statement="One is one.",
        kind=kind,
        source="derived",
        notebook="bond/x",
        tests=tests,
    )


def test_the_worst_of_a_claims_verdicts_counts():
    below = Test(number="y", condition="below", bound=0.0)
    missing = Test(number="z", condition="equals", bound=1)
    good, bad, open_ = Number(1, 1, 1), Number(1.0, 0.5, 2.0), Number(0.0, -1.0, 1.0)
    assert evaluate(claim(EQUALS), {"x": good}) == (REPRODUCED, "1 test")
    assert evaluate(claim(EQUALS, below), {"x": good, "y": open_})[0] is UNDECIDED
    verdict, why = evaluate(claim(EQUALS, below, missing), {"x": good, "y": open_})
    assert (verdict, why) == (NOT_RUN, "missing: z")
    verdict, why = evaluate(claim(EQUALS, below, missing), {"x": good, "y": bad})
    assert verdict is CONTRADICTED
    assert why == "y = 1 [0.5, 2], expected < 0"


def test_without_numbers_or_tests_nothing_was_run():
    assert evaluate(claim(EQUALS), None) == (NOT_RUN, "bond/x has not run")
    assert evaluate(claim(), {"x": Number(1, 1, 1)}) == (NOT_RUN, "no test yet")
    verdict, why = evaluate(claim(kind="needs-weights"), None)
    assert verdict is NOT_RUN
    assert "checkpoints" in why


@pytest.mark.parametrize(
    ("test", "kind", "now", "published", "agrees"),
    [
        (EQUALS, "exact", (1, 1, 1), (1, 1, 1), True),
        (EQUALS, "exact", (1, 1, 1), (2, 2, 2), False),
        (EQUALS, "exact", (True, True, True), (1, 1, 1), False),
        (EQUALS, "exact", ("a", "a", "a"), ("b", "b", "b"), False),
        (NEAR, "exact", (1.0, 1.0, 1.0), (1.2, 1.2, 1.2), True),
        (NEAR, "exact", (1.0, 1.0, 1.0), (1.3, 1.3, 1.3), False),
        (BELOW, "exact", (1e-16, 1e-16, 1e-16), (3e-16, 3e-16, 3e-16), True),
        (BELOW, "exact", (1e-16, 1e-16, 1e-16), (3.0, 3.0, 3.0), False),
        (BELOW, "mechanism", (0.0, -1.0, 1.0), (1.5, 0.9, 2.0), True),
        (BELOW, "mechanism", (0.0, -1.0, 1.0), (1.5, 1.1, 2.0), False),
        (BELOW, "mechanism", (math.nan,) * 3, (math.nan,) * 3, True),
        (BELOW, "mechanism", (math.nan,) * 3, (1.0, 1.0, 1.0), False),
    ],
)
def test_agreement_with_what_is_published(
    test: Test, kind: str, now: tuple, published: tuple, agrees: bool
):
    assert agree(claim(test, kind=kind), test, Number(*now), Number(*published)) is agrees


# From files to the ledger and the final table


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one exact and one statistical claim, published at laptop and run afresh."""
    exact = TESTED + 'tests = [{ number = "count", equals = 4 }]\n'
    trend = TESTED.replace("bond-x", "bond-y").replace('"exact"', '"mechanism"')
    trend += 'tests = [{ number = "gap", below = 0.0, paper = 7.4 }]\n'
    idle = ROW.replace("bond-x", "bond-z")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "claims.toml").write_text(exact + trend + idle)
    published = {"count": 4, "gap": Interval(-0.2, -0.3, -0.1)}
    write_numbers(tmp_path / "figures" / "laptop" / "bond" / "x", published, records=[])
    return tmp_path


def test_the_ledger_comes_from_files_alone(checkout: Path):
    rows = ledger(checkout)
    assert [row.verdicts["laptop"] for row in rows] == [REPRODUCED, REPRODUCED, NOT_RUN]
    assert {row.verdicts["gpu"] for row in rows} == {NOT_RUN}
    own = checkout / "runs" / "figures"
    write_numbers(own / "laptop" / "bond" / "x", {"count": 5}, records=[])
    rows = ledger(checkout, own, profiles=("laptop",))
    assert [row.verdicts["laptop"] for row in rows] == [CONTRADICTED, NOT_RUN, NOT_RUN]
    assert "✗ contradicted" in ledger_table(rows)
    assert "count = 5, expected 4" in ledger_table(rows, "html")
    assert ledger_table(rows, "markdown").count("\n") == 4


def test_ours_now_published_and_paper(checkout: Path):
    own = checkout / "runs" / "figures"
    assert [row.agrees for row in comparison(checkout, own, "laptop")] == ["not run", "not run"]
    new = {"count": 4, "gap": Interval(-0.25, -0.4, -0.15)}
    write_numbers(own / "laptop" / "bond" / "x", new, records=[])
    count, gap = comparison(checkout, own, "laptop")
    assert (count.agrees, gap.agrees) == ("yes", "yes")
    assert (count.paper, gap.paper) == ("4", "7.4")
    assert not count.failed
    assert str(gap.now) == "-0.25 [-0.4, -0.15]"
    assert "-0.2 [-0.3, -0.1]" in comparison_table([count, gap])
    new = {"count": 3, "gap": Interval(0.5, 0.4, 0.6)}
    write_numbers(own / "laptop" / "bond" / "x", new, records=[])
    assert [row.agrees for row in comparison(checkout, own, "laptop")] == ["no", "no"]
    assert all(row.failed for row in comparison(checkout, own, "laptop"))


def test_at_smoke_exact_numbers_are_held_against_laptops(checkout: Path):
    own = checkout / "runs" / "figures"
    write_numbers(own / "smoke" / "bond" / "x", {"count": 4, "gap": 1.0}, records=[])
    assert [row.agrees for row in comparison(checkout, own, "smoke")] == ["yes", "new"]


def test_a_table_lines_up():
    lines = ledger_table(ledger(ROOT)).splitlines()
    columns = {line.index("  ·") if "  ·" in line else line.index("  ✓") for line in lines[2:5]}
    assert len(lines) == len(LEDGER) + 2
    assert len(columns) == 1
