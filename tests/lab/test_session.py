"""Sessions and profiles: what is read, what wins, and what is refused."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from matchbook import lab

SIZES = {"smoke": {"seeds": 2, "steps": 20}, "laptop": {"seeds": 5, "steps": 300}}


def test_without_a_runner_a_notebook_writes_into_its_checkouts_runs(monkeypatch, tmp_path):
    monkeypatch.delenv("MATCHBOOK_SESSION", raising=False)
    deep = tmp_path / "book" / "notebooks" / "gemma2"
    deep.mkdir(parents=True)
    (tmp_path / "book" / "pyproject.toml").write_text('[project]\nname = "matchbook"\n')
    monkeypatch.chdir(deep)
    session = lab.session()
    assert session.root == tmp_path / "book"
    assert session.runs == tmp_path / "book" / "runs"
    assert session.figures == tmp_path / "book" / "runs" / "figures"
    assert session.replay == ("own", "published")
    assert (session.only, session.fresh, session.batch) == (None, False, False)


def test_another_project_around_is_not_taken_for_the_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv("MATCHBOOK_SESSION", raising=False)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    monkeypatch.chdir(tmp_path)
    assert lab.session().root != tmp_path


def test_the_runner_sets_every_field(set_session, tmp_path):
    root = set_session(
        runs=str(tmp_path / "elsewhere"),
        figures="pictures",
        replay=["published"],
        only={"arm": "a", "seed": 3},
        fresh=True,
        batch=True,
    )
    session = lab.session()
    assert session.runs == tmp_path / "elsewhere"
    assert session.figures == root / "pictures"
    assert session.only == ("a", 3)
    assert session.replay == ("published",)
    assert session.fresh
    assert session.batch
    assert session.records("own", "x/y") == tmp_path / "elsewhere" / "records" / "x" / "y"
    assert session.records("published", "x/y") == root / "figures" / "records" / "x" / "y"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"replays": []}, "replays"),
        ({"replay": ["mine"]}, "replay"),
        ({"only": {"arm": "a"}}, "only"),
        ({"only": {"arm": "a", "seed": -1}}, "only"),
        ({"fresh": 1}, "fresh"),
    ],
)
def test_a_malformed_session_is_refused(set_session, fields, named):
    set_session(**fields)
    with pytest.raises(ValueError, match=named):
        lab.session()


def test_text_that_is_not_json_is_refused(monkeypatch):
    monkeypatch.setenv("MATCHBOOK_SESSION", "runs=here")
    with pytest.raises(ValueError, match="not JSON"):
        lab.session()


def test_knobs_take_the_profiles_column_and_what_the_reader_set_wins():
    knobs = lab.knobs("smoke", SIZES, seeds=None, steps=7)
    assert (knobs.seeds, knobs.steps) == (2, 7)
    assert lab.knobs("laptop", SIZES, seeds=0, steps=None).seeds == 0  # zero is a choice


@pytest.mark.parametrize(
    ("profile", "sizes", "chosen", "message"),
    [
        ("latpop", SIZES, {"seeds": None, "steps": None}, "did you mean 'laptop'"),
        ("gpu", SIZES, {"seeds": None, "steps": None}, r"one of \['smoke', 'laptop'\]; got 'gpu'"),
        ("smoke", SIZES, {"seeds": None, "step": None}, "did you mean 'steps'"),
        ("smoke", SIZES, {"seeds": None}, "steps=steps"),
        ("smoke", {"smoke": {"a": 1}, "gpu": {"b": 1}}, {"a": None}, r"\['a', 'b'\]"),
        ("tiny", {"tiny": {}}, {}, "tiny"),
    ],
)
def test_knobs_refuse_what_does_not_fit(profile, sizes, chosen, message):
    with pytest.raises(ValueError, match=message):
        lab.knobs(profile, sizes, **chosen)


def test_the_lab_starts_without_what_it_does_not_need_yet():
    program = """
import sys
from matchbook import lab
lab.session(), lab.knobs("smoke", {"smoke": {}})
heavy = {"jax", "orbax", "pandas", "matplotlib", "scipy"} & set(sys.modules)
assert not heavy, heavy
lab.Experiment, lab.Interval
assert not {"jax", "orbax"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent)


@pytest.mark.parametrize("name", ["session", "fit"])
def test_a_name_is_the_function_even_when_its_file_is_imported(name):
    setattr(lab, name, importlib.import_module(f"matchbook.lab.{name}"))  # as an import does
    assert getattr(lab, name).__name__ == name
    assert callable(getattr(lab, name))


def test_every_export_is_there():
    assert set(lab.__all__) <= set(dir(lab))
    for name in lab.__all__:
        assert getattr(lab, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        lab.fitt  # noqa: B018
