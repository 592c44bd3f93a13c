"""Records: keys, exact round trips, the size limit, damage, and writing in one piece."""

import json
import math
import os

import numpy as np
import pytest

from matchbook.lab import records
from matchbook.lab.records import (
    DamagedRecord,
    Identity,
    Record,
    digest,
    plain,
    read_record,
    write_record,
)

BASE = {
    "experiment": "gemma2/02_first_distillation",
    "version": 1,
    "arm": "distilled",
    "seed": 0,
    "params": {"steps": 20, "learning_rate": 1e-3, "sizes": [1, 2]},
    "data": "abc",
}


def _record(**changes):
    measured = {
        "numbers": {"loss": 0.1, "bad": math.nan, "far": -math.inf},
        "curves": {"loss": (np.array([0, 10]), np.array([1 / 3, math.inf]))},
        "passport": {"wall_seconds": 1.5},
    }
    return Record(**{**BASE, **measured, **changes})


def test_the_key_is_stable():
    # Written down once: a change would orphan every published record.
    assert Identity(**BASE).key == "4cb4f91fe07a30e0"


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": "gemma2/03"},
        {"version": 2},
        {"arm": "scratch"},
        {"seed": 1},
        {"data": None},
        {"data": "abd"},
        {"params": {"steps": 21, "learning_rate": 1e-3, "sizes": [1, 2]}},
        {"params": {"steps": 20, "learning_rate": 1e-3, "sizes": [2, 1]}},
        {"params": {"steps": 20, "learning_rate": 1e-3}},
        {"params": {"step": 20, "learning_rate": 1e-3, "sizes": [1, 2]}},
        {"params": {"steps": "20", "learning_rate": 1e-3, "sizes": [1, 2]}},
    ],
)
def test_the_key_follows_every_ingredient(change):
    assert Identity(**{**BASE, **change}).key != Identity(**BASE).key


def test_the_key_does_not_follow_order_or_tuples():
    params = {"sizes": (1, 2), "learning_rate": 0.001, "steps": 20}
    assert Identity(**{**BASE, "params": params}).key == Identity(**BASE).key


@pytest.mark.parametrize(
    "value", [{}, {1}, np.float32(1), np.int64(1), np.zeros(2), math.nan, [math.inf], [[{}]], len]
)
def test_a_parameter_that_cannot_be_recorded_is_named(value):
    with pytest.raises(ValueError, match="parameter 'rate'"):
        Identity(**{**BASE, "params": {"rate": value}})
    with pytest.raises(ValueError, match="parameter 'rate'"):
        plain(value, "rate")


@pytest.mark.parametrize(
    "change", [{"arm": "a/b"}, {"arm": ""}, {"arm": "two words"}, {"experiment": "../x"}]
)
def test_names_that_no_file_can_have_are_refused(change):
    with pytest.raises(ValueError, match="name"):
        Identity(**{**BASE, **change})


def test_a_record_comes_back_exactly(tmp_path):
    floats = np.random.default_rng(0).standard_normal(200) * 10.0 ** np.linspace(-30, 30, 200)
    record = _record(
        curves={"a": (np.arange(200), floats), "b": (floats, floats.astype(np.float32))}
    )
    path = write_record(record, tmp_path / "deep" / "er")
    again = read_record(path)
    assert path.name == f"distilled-0-{record.key}.json"
    assert again.to_json() == record.to_json() == path.read_text()
    assert again.results() == record.results()
    np.testing.assert_array_equal(again.curves["a"][1], floats)
    assert again.curves["a"][0].dtype == np.int64
    np.testing.assert_array_equal(again.curves["b"][0], floats)
    assert math.isnan(again.numbers["bad"])
    assert again.numbers["far"] == -math.inf
    assert again.passport == {"wall_seconds": 1.5}


def test_a_file_is_plain_json_without_nan(tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    text = _record().to_json()
    content = json.loads(text, parse_constant=refuse)
    assert content["numbers"] == {"bad": "nan", "far": "-inf", "loss": 0.1}
    assert content["curves"]["loss"] == {"steps": [0, 10], "values": [1 / 3, "inf"]}
    assert text.index('"arm"') < text.index('"curves"') < text.index('"version"')


def test_the_passport_is_no_result():
    one, other = _record(), _record(passport={"wall_seconds": 2.5})
    assert one.results() == other.results()
    assert one.to_json() != other.to_json()


def test_a_record_too_large_names_its_biggest_curve(tmp_path):
    long = (np.arange(9000), np.linspace(0, 1, 9000))
    record = _record(curves={"short": ([1], [2.0]), "wide": long})
    with pytest.raises(ValueError, match=r"'wide' with 9000 points .* log less often"):
        write_record(record, tmp_path)
    assert not list(tmp_path.iterdir())


def _edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: p.write_text(p.read_text()[:-30]), "not JSON"),
        (lambda p: p.write_bytes(b"\xff\xfe"), "not JSON"),
        (lambda p: p.write_text(""), "not JSON"),
        (lambda p: p.write_text("[]"), "no JSON object"),
        (lambda p: _edit(p, schema=99), "schema 1 expected, got 99"),
        (lambda p: _edit(p, numbers={"loss": 0.05}), "digest"),
        (lambda p: _edit(p, seed="0"), "'seed'"),
        (lambda p: _edit(p, curves=None), "'curves'"),
    ],
)
def test_damage_is_named(tmp_path, damage, reason):
    path = write_record(_record(), tmp_path)
    damage(path)
    with pytest.raises(DamagedRecord, match=reason) as caught:
        read_record(path)
    assert path.name in str(caught.value)


def test_a_record_under_anothers_name_is_refused(tmp_path):
    path = write_record(_record(), tmp_path)
    moved = path.rename(path.with_name(path.name.replace("-0-", "-1-")))
    with pytest.raises(DamagedRecord, match="by its content it is distilled-0-"):
        read_record(moved)


def test_forged_results_with_a_matching_digest_still_need_a_matching_key(tmp_path):
    path = write_record(_record(), tmp_path)
    content = json.loads(path.read_text())
    forged = {k: v for k, v in content.items() if k not in ("digest", "passport")} | {"seed": 1}
    path.write_text(json.dumps({**forged, "digest": digest(forged), "passport": {}}))
    with pytest.raises(DamagedRecord, match="by its content"):
        read_record(path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_record(_record(), tmp_path)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(records.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_record(_record(passport={"x": 1}), tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
