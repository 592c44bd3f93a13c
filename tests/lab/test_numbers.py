"""numbers.csv: what is written is read back exactly, and what cannot be is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matchbook.lab.numbers import Number, read_numbers, write_numbers
from matchbook.lab.statistics import Interval

EXACT = {
    "int": 27_227_718_144,
    "beyond.float": 2**63 + 1,
    "tenth": 0.1,
    "third": 1 / 3,
    "tiny": 5e-324,
    "float.of.int": 1.0,
    "true": True,
    "false": False,
    "text": 'a "quoted", text\nof two lines: naïve',
    "digits.as.text": "12",
    "infinite": math.inf,
    "numpy.float32": np.float32(0.1),
    "numpy.int": np.int64(7),
    "numpy.bool": np.bool_(True),
    "scalar.array": np.array(2.5),
}


def test_every_value_comes_back_exactly_and_in_order(tmp_path: Path):
    write_numbers(tmp_path, EXACT, records=[])
    numbers = read_numbers(tmp_path)
    assert list(numbers) == list(EXACT)
    for key, value in EXACT.items():
        plain = value.item() if hasattr(value, "item") else value
        back = numbers[key]
        assert back == Number(plain, plain, plain)
        assert type(back.value) is type(plain)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=50))
def test_any_float_survives(tmp_path_factory: pytest.TempPathFactory, values: list[float]):
    folder = tmp_path_factory.mktemp("numbers")
    write_numbers(folder, {f"x{i}": value for i, value in enumerate(values)}, records=[])
    back = [number.value for number in read_numbers(folder).values()]
    assert list(map(repr, back)) == list(map(repr, values))


def test_intervals_and_nan(tmp_path: Path):
    write_numbers(
        tmp_path,
        {
            "gap": Interval(-0.1, -0.2, 0.05),
            "one.seed": Interval(1.0, -math.inf, math.inf),
            "nan": math.nan,
        },
        records=[],
    )
    numbers = read_numbers(tmp_path)
    assert numbers["gap"] == (-0.1, -0.2, 0.05)
    assert numbers["one.seed"] == (1.0, -math.inf, math.inf)
    assert all(map(math.isnan, numbers["nan"]))
    assert (tmp_path / "numbers.csv").read_text().splitlines()[1] == "gap,-0.1,-0.2,0.05"


def test_the_same_numbers_write_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        write_numbers(tmp_path / name, EXACT, records=[])
    for file in ("numbers.csv", "numbers.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_table_for_people(tmp_path: Path):
    table = write_numbers(
        tmp_path, {"count": 590118912.0, "gap": Interval(0.125, 0.1, 0.15)}, records=[]
    )
    assert list(table.columns) == ["value", "low", "high"]
    assert table.loc["count", "value"] == "590,118,912"
    assert table.loc["gap"].tolist() == ["0.125", "0.1", "0.15"]


@pytest.mark.parametrize(
    ("mapping", "named"),
    [
        ({"a b": 1}, "'a b'"),
        ({"": 1}, "''"),
        ({"a,b": 1}, "'a,b'"),
        ({"curve": np.zeros(3)}, "'curve'"),
        ({"curve": [1.0, 2.0]}, "list"),
        ({"none": None}, "NoneType"),
        ({"complex": 1j}, "complex"),
        ({"odd": Interval(2.0, 0.0, 1.0)}, "outside"),
    ],
)
def test_what_is_no_number_is_refused_by_name(tmp_path: Path, mapping: dict, named: str):
    with pytest.raises(ValueError, match="number") as refusal:
        write_numbers(tmp_path, mapping, records=[])
    assert named in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("key,value\nx,1\n", "first line"),
        ("key,value,low,high\nx,1,1,1\nx,2,2,2\n", "line 3: 'x' stands here a second time"),
        ("key,value,low,high\nx,1,1\n", "line 2"),
        ("key,value,low,high\nx,one,1,1\n", "line 2"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, text: str, reason: str):
    (tmp_path / "numbers.csv").write_text(text)
    with pytest.raises(ValueError, match=r"numbers\.csv") as refusal:
        read_numbers(tmp_path)
    assert reason in str(refusal.value)
