"""The parameters cell is read without running it, and values are read by its types."""

import pytest

from matchbook.lab.parameters import UsageError, parse_parameters_cell, parse_value

CELL = """\
profile: str = "laptop"  # the column of sizes
arms: list[str] = ["scratch", "distilled"]  # what is compared
seeds: int | None = None  # independent repetitions
rate: float = 3e-3  # Adam's peak learning rate
tied: bool = True  # one table for both ends
note: str = "a # b"  # text with a hash
widths: list[float] | None = None  # relative
sizes = {
    "smoke": {"seeds": 2},
    "laptop": {"seeds": 5},
}
"""


def _parameter(annotation, default="None"):
    optional = "None" in annotation
    source = f"x: {annotation} = {default if optional else _DEFAULTS[annotation]}  # it"
    return parse_parameters_cell(f'profile: str = "laptop"  # p\n{source}').parameters["x"]


_DEFAULTS = {"int": "0", "float": "0.0", "str": "''", "bool": "False"} | {
    f"list[{kind}]": "[]" for kind in ("int", "float", "str", "bool")
}


def test_cell_is_read_with_types_defaults_and_comments():
    cell = parse_parameters_cell(CELL)
    described = [parameter.describe() for parameter in cell.parameters.values()]
    assert described == [
        "profile: str = 'laptop'  # the column of sizes",
        "arms: list[str] = ['scratch', 'distilled']  # what is compared",
        "seeds: int | None = None  # independent repetitions",
        "rate: float = 0.003  # Adam's peak learning rate",
        "tied: bool = True  # one table for both ends",
        "note: str = 'a # b'  # text with a hash",
        "widths: list[float] | None = None  # relative",
    ]
    assert cell.sizes == {"smoke": {"seeds": 2}, "laptop": {"seeds": 5}}


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("int", "5", 5),
        ("int", "-3", -3),
        ("float", "1e-4", 1e-4),
        ("float", "5", 5.0),
        ("bool", "true", True),
        ("bool", "False", False),
        ("str", "1e-4", "1e-4"),
        ("str", "a=b", "a=b"),
        ("int | None", "none", None),
        ("int | None", "7", 7),
        ("list[str]", "up,down", ["up", "down"]),
        ("list[str]", "up", ["up"]),
        ("list[str]", '["a,b", "c"]', ["a,b", "c"]),
        ("list[int]", "1, 2", [1, 2]),
        ("list[float]", "[1, 2.5]", [1.0, 2.5]),
        ("list[float]", "1e-3,2", [1e-3, 2.0]),
        ("list[bool]", "[true, false]", [True, False]),
        ("list[int] | None", "none", None),
    ],
)
def test_values_are_read_by_the_declared_type(annotation, text, value):
    read = parse_value(text, _parameter(annotation))
    assert read == value
    assert type(read) is type(value)
    if isinstance(value, list):
        assert [type(item) for item in read] == [type(item) for item in value]


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("int", "1e3"),
        ("int", "5.0"),
        ("int", "none"),
        ("int", ""),
        ("int", "true"),
        ("float", "fast"),
        ("float", "nan"),
        ("float", "inf"),
        ("bool", "1"),
        ("bool", "yes"),
        ("list[int]", "1,x"),
        ("list[int]", "[1.5]"),
        ("list[int]", "[true]"),
        ("list[str]", "[1]"),
        ("list[float]", "[1, 2"),
    ],
)
def test_mistyped_values_are_refused_with_the_expected_type(annotation, text):
    kind = annotation.removeprefix("list[").removesuffix("]")
    expected = {"bool": "true or false", "float": "float|JSON", "str": "str"}.get(kind, kind)
    with pytest.raises(ValueError, match=f"expected .*({expected})"):
        parse_value(text, _parameter(annotation))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seds=3", "unknown parameter 'seds': did you mean 'seeds'?"),
        ("zzz=3", "unknown parameter 'zzz'\n"),
        ("rate=fast", "parameter 'rate': expected float, got 'fast'"),
        ("seeds", "expected name=value, got 'seeds'"),
        ("profile=smoke", "--profile"),
        ("sizes={}", "unknown parameter 'sizes'"),
    ],
)
def test_errors_name_the_nearest_match_and_list_what_is_valid(assignment, message):
    with pytest.raises(UsageError) as error:
        parse_parameters_cell(CELL).parse(["tied=false", assignment])
    assert message in str(error.value)
    if "=" in assignment and "profile" not in assignment:
        assert "rate: float = 0.003  # Adam's peak learning rate" in str(error.value)


def test_given_wins_over_default_and_default_over_profile():
    cell = parse_parameters_cell(CELL)
    assert cell.resolve("seeds", "smoke", {}) == 2
    assert cell.resolve("seeds", "laptop", {}) == 5
    assert cell.resolve("seeds", "smoke", {"seeds": 9}) == 9
    assert cell.resolve("rate", "smoke", {}) == 3e-3
    assert cell.resolve("rate", "smoke", {"rate": 0.5}) == 0.5
    assert cell.resolve("widths", "smoke", {}) is None


def test_unknown_profiles_are_refused():
    with pytest.raises(UsageError, match=r"'smok': did you mean 'smoke'.*\n.*smoke, laptop"):
        parse_parameters_cell(CELL).check_profile("smok")
    with pytest.raises(UsageError, match="unknown profile"):
        parse_parameters_cell('profile: str = "laptop"  # p').check_profile("tiny")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps: int = 5", "trailing comment"),
        ("steps = 5  # untyped", "expected only lines such as"),
        ("steps: int = 'five'  # wrong", "default of type int, got 'five'"),
        ("steps: int = True  # a bool is no int", "default of type int"),
        ("steps: int = None  # not optional", "default of type int"),
        ("steps: int = 2 + 3  # no literal", "expected a literal"),
        ("steps: dict = {}  # wrong", "expected a type"),
        ("steps: int | str = 5  # wrong", "expected a type"),
        ("import os  # no", "expected only lines such as"),
        ("steps: int  # no default", "expected only lines such as"),
        ('sizes = {"laptop": {"steps": 5}}', "got \\['steps'\\]"),
        ('sizes = {"laptop": {"seeds": 5}, "gpu": {}}', "differ in \\['seeds'\\]"),
        ('sizes = {"laptop": {"seeds": 0.5}}', "expected int \\| None, got 0.5"),
        ('sizes = {"gpu": {"seeds": 5}}', "column 'laptop'"),
        ('sizes = {"laptop": {}, "tiny": {}}', "got \\['laptop', 'tiny'\\]"),
        ("sizes = [1]", "sizes = "),
    ],
)
def test_broken_cells_are_refused(line, message):
    good = 'profile: str = "laptop"  # p\nseeds: int | None = None  # s\n'
    with pytest.raises(ValueError, match=message):
        parse_parameters_cell(good + line)


@pytest.mark.parametrize(
    "line", ["", 'profile: str = "smoke"  # p', 'profile: list[str] = ["laptop"]  # p']
)
def test_a_profile_is_required(line):
    with pytest.raises(ValueError, match="profile: str"):
        parse_parameters_cell(line)
