"""Experiments: computed once, replayed after, in the session's order; one run alone; failures."""

import json
import math
import shutil
import sys
import types

import numpy as np
import pandas as pd
import pytest

from matchbook import lab
from matchbook.lab.records import DamagedRecord, read_record

ARMS = ["scratch", "distilled"]


class Measure:
    """Counts its calls; results are a function of the arguments alone."""

    def __init__(self):
        self.calls = []

    def __call__(self, arm, seed, steps=10):
        self.calls.append((arm, seed))
        loss = len(arm) + seed / 3
        extra = {"gap": 2.0} if arm == "distilled" else {}
        return lab.Measured({"loss": loss, **extra}, {"loss": ([0, steps], [1.0, loss])})


def _experiment(**changes):
    settings = {"version": 1, "profile": "laptop", **changes}
    return lab.Experiment("toy/counting", **settings)


def test_where_nothing_may_be_computed_a_missing_record_is_named(set_session):
    set_session()
    _experiment().run(Measure(), arms=ARMS[:1], seeds=1)
    set_session(recorded=True)
    measure = Measure()
    with pytest.raises(LookupError, match=r"distilled, seed 0 .* matchbook publish toy/counting"):
        _experiment().run(measure, arms=ARMS, seeds=1)
    assert measure.calls == []


def test_runs_are_tables_and_curves_in_the_order_of_the_arms(set_session):
    set_session()
    runs = _experiment().run(Measure(), arms=ARMS, seeds=3, steps=20)
    assert list(runs.numbers("loss")) == ARMS
    np.testing.assert_array_equal(runs.numbers("loss")["scratch"], [7, 7 + 1 / 3, 7 + 2 / 3])
    steps, values = runs.curve("loss")["distilled"]
    np.testing.assert_array_equal(steps, [0, 20])
    assert values.shape == (3, 2)
    table = runs.table()
    assert list(table.columns[:2]) == ["arm", "seed"]
    assert table["arm"].tolist() == ["scratch"] * 3 + ["distilled"] * 3
    assert table["gap"].isna().tolist() == [True] * 3 + [False] * 3
    assert list(runs.numbers("gap")) == ["distilled"]
    assert repr(runs) == "6 runs: scratch (3), distilled (3)"


def test_what_is_recorded_is_not_computed_again(set_session, capsys):
    root = set_session()
    measure = Measure()
    first = _experiment().run(measure, arms=ARMS, seeds=2, steps=20)
    files = {path: path.read_bytes() for path in root.rglob("*.json")}
    again = _experiment(profile="smoke").run(measure, arms=ARMS, seeds=3, steps=20)
    assert measure.calls == [(a, s) for a in ARMS for s in (0, 1)] + [(a, 2) for a in ARMS]
    assert [r.results() for r in again.records if r.seed < 2] == [
        r.results() for r in first.records
    ]
    assert all(path.read_bytes() == content for path, content in files.items())
    capsys.readouterr()
    _experiment().run(measure, arms=ARMS, seeds=3, steps=20)
    assert capsys.readouterr() == ("", "")  # replaying prints nothing that could differ


@pytest.mark.parametrize(
    ("settings", "params"), [({"version": 2}, {}), ({"data": "abc"}, {}), ({}, {"steps": 11})]
)
def test_a_change_of_version_data_or_parameter_is_computed(set_session, settings, params):
    set_session()
    measure = Measure()
    _experiment().run(measure, arms=["a"], seeds=1, steps=10)
    _experiment(**settings).run(measure, arms=["a"], seeds=1, **{"steps": 10, **params})
    assert len(measure.calls) == 2


def test_only_the_arms_that_were_revised_are_computed(set_session):
    set_session()
    _experiment().run(Measure(), arms=ARMS, seeds=2)
    measure = Measure()
    runs = _experiment(revised={"dist*": 2}).run(measure, arms=ARMS, seeds=2)
    assert measure.calls == [("distilled", 0), ("distilled", 1)]
    assert {r.arm: r.version for r in runs.records} == {"scratch": 1, "distilled": 2}


def test_a_digest_of_found_data_is_in_the_passport_but_not_in_the_key(set_session):
    set_session()

    def measure(arm, seed):
        return lab.Measured({"loss": 1.0}, data="text of this machine")

    (record,) = _experiment().run(measure, arms=["scratch"], seeds=1).records
    (twin,) = _experiment().run(Measure(), arms=["scratch"], seeds=1).records
    assert record.passport["data"] == "text of this machine"
    assert twin == record


def test_own_records_win_over_published_ones_in_the_sessions_order(set_session):
    root = set_session()
    experiment = _experiment()
    experiment.run(Measure(), arms=["a"], seeds=1)
    own = root / "runs" / "records" / "toy" / "counting"
    published = root / "figures" / "records" / "toy" / "counting"
    shutil.copytree(own, published)
    _mark(own, "own")
    _mark(published, "published")

    def origin(**fields):
        set_session(**fields)
        return experiment.run(Measure(), arms=["a"], seeds=1).records[0].passport["mark"]

    assert origin() == "own"
    assert origin(replay=["published", "own"]) == "published"
    assert origin(replay=["published"]) == "published"
    shutil.rmtree(own)
    assert origin() == "published"


def _mark(folder, mark):
    (path,) = folder.iterdir()
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "passport": {"mark": mark}}))


@pytest.mark.parametrize("fields", [{"fresh": True}, {"replay": []}])
def test_fresh_computes_all(set_session, fields):
    set_session()
    measure = Measure()
    _experiment().run(measure, arms=["a"], seeds=2)
    set_session(**fields)
    _experiment().run(measure, arms=["a"], seeds=2)
    assert len(measure.calls) == 4


def test_a_damaged_own_record_is_computed_again_and_a_published_one_refused(set_session, capsys):
    root = set_session()
    measure = Measure()
    own = root / "runs" / "records" / "toy" / "counting"
    good = _experiment().run(measure, arms=["a"], seeds=1).records[0].results()
    (path,) = own.iterdir()
    path.write_text(path.read_text()[:50])
    assert _experiment().run(measure, arms=["a"], seeds=1).records[0].results() == good
    assert len(measure.calls) == 2
    assert f"{path.name} is not JSON" in capsys.readouterr().err
    published = root / "figures" / "records" / "toy" / "counting"
    published.mkdir(parents=True)
    path.rename(published / path.name)
    (published / path.name).write_text("{}")
    with pytest.raises(DamagedRecord, match=path.name):
        _experiment().run(measure, arms=["a"], seeds=1)
    assert len(measure.calls) == 2


def test_a_session_may_ask_for_one_run_alone(set_session):
    root = set_session(only={"arm": "distilled", "seed": 7})
    measure = Measure()
    with pytest.raises(lab.RunFinished) as finished:
        _experiment().run(measure, arms=ARMS, seeds=2)
    assert measure.calls == [("distilled", 7)]
    record = read_record(finished.value.path)
    assert (record.arm, record.seed) == ("distilled", 7)
    assert list(root.rglob("*.json")) == [finished.value.path]
    with pytest.raises(lab.RunFinished):
        _experiment().run(measure, arms=ARMS, seeds=2)
    assert len(measure.calls) == 1


def test_one_run_alone_that_is_published_is_put_where_it_was_asked_for(set_session):
    root = set_session()
    _experiment().run(Measure(), arms=["a"], seeds=1)
    own = root / "runs" / "records" / "toy" / "counting"
    (root / "figures" / "records" / "toy").mkdir(parents=True)
    shutil.move(own, root / "figures" / "records" / "toy" / "counting")
    set_session(only={"arm": "a", "seed": 0})
    measure = Measure()
    with pytest.raises(lab.RunFinished) as finished:
        _experiment().run(measure, arms=["a"], seeds=1)
    assert measure.calls == []
    assert read_record(finished.value.path).arm == "a"
    assert finished.value.path.parent == own


def test_one_run_of_an_unknown_arm_is_refused(set_session):
    set_session(only={"arm": "distiled", "seed": 0})
    with pytest.raises(ValueError, match="did you mean 'distilled'"):
        _experiment().run(Measure(), arms=ARMS, seeds=1)


def test_a_failing_run_names_itself_keeps_what_is_done_and_records_nothing(set_session):
    root = set_session()

    def measure(arm, seed):
        if (arm, seed) == ("distilled", 1):
            raise ZeroDivisionError("no luck")
        return lab.Measured({"loss": 1.0})

    with pytest.raises(ZeroDivisionError) as caught:
        _experiment().run(measure, arms=ARMS, seeds=2)
    assert caught.value.__notes__ == ["while computing distilled, seed 1 (4 of 4) of toy/counting"]
    names = sorted(p.name.rsplit("-", 1)[0] for p in root.rglob("*.json"))
    assert names == ["distilled-0", "scratch-0", "scratch-1"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.run(Measure(), arms=[], seeds=1), ValueError, "at least one seed"),
        (lambda e: e.run(Measure(), arms=["a", "a"], seeds=1), ValueError, "different arms"),
        (lambda e: e.run(Measure(), arms=["a"], seeds=0), ValueError, "seeds=0"),
        (lambda e: e.run(Measure(), arms=["a"], seeds=1, steps={}), ValueError, "'steps'"),
        (lambda e: e.run(lambda **_: {"loss": 1}, arms=["a"], seeds=1), TypeError, "argument"),
        (lambda e: e.run(lambda a, s: {"x": 1}, arms=["a"], seeds=1), TypeError, "got dict"),
        (lambda e: e.report({"x": 1.0}), ValueError, r"call run\(\) first"),
    ],
)
def test_misuse_is_refused(set_session, call, error, message):
    root = set_session()
    with pytest.raises(error, match=message):
        call(_experiment())
    assert not list(root.rglob("*.json"))


def test_an_experiment_checks_its_name_and_profile(set_session):
    with pytest.raises(ValueError, match="did you mean 'laptop'"):
        _experiment(profile="lapptop")
    with pytest.raises(ValueError, match="room/name"):
        lab.Experiment("../up", version=1, profile="smoke")


@pytest.mark.parametrize(
    ("numbers", "curves", "message"),
    [
        ({"x": [1.0, 2.0]}, {}, "'x' is a scalar"),
        ({"x": 2**53 + 1}, {}, "too large"),
        ({}, {"c": [1.0, 2.0, 3.0]}, "pair"),
        ({}, {"c": ([1, 2], [1.0])}, r"\(2,\) and \(1,\)"),
        ({}, {"c": ([], [])}, "at least 1"),
    ],
)
def test_measured_refuses_what_no_record_can_hold(numbers, curves, message):
    with pytest.raises(ValueError, match=message):
        lab.Measured(numbers, curves)


def test_measured_takes_scalars_of_all_kinds():
    import jax.numpy as jnp

    measured = lab.Measured(
        {"a": jnp.float32(0.5), "b": np.int64(3), "c": True, "d": 590118912, "e": math.nan}
    )
    assert [type(v) for v in measured.numbers.values()] == [float] * 5
    assert measured.numbers["d"] == 590118912


def test_an_unknown_number_or_curve_names_the_nearest(set_session):
    set_session()
    runs = _experiment().run(Measure(), arms=ARMS, seeds=1)
    with pytest.raises(KeyError, match="did you mean 'loss'"):
        runs.numbers("los")
    with pytest.raises(KeyError, match="did you mean 'loss'"):
        runs.curve("lss")


def test_a_number_that_only_some_seeds_have_is_no_sample(set_session):
    set_session()
    runs = _experiment().run(
        lambda arm, seed: lab.Measured({"x": 1.0} if seed else {"y": 1.0}), arms=["a"], seeds=3
    )
    with pytest.raises(KeyError, match="2 of 3 seeds of 'a' have 'x'"):
        runs.numbers("x")


def test_curves_measured_at_different_steps_are_not_averaged(set_session):
    set_session()
    runs = _experiment().run(
        lambda arm, seed: lab.Measured({}, {"c": ([seed], [1.0])}), arms=["a"], seeds=2
    )
    with pytest.raises(ValueError, match="differ in their steps"):
        runs.curve("c")


def test_computed_values_are_those_that_will_be_replayed(set_session):
    set_session()
    value = np.float32(0.1)
    experiment = _experiment()
    computed = experiment.run(lambda a, s: lab.Measured({"x": value}), arms=["a"], seeds=1)
    replayed = experiment.run(lambda a, s: 1 / 0, arms=["a"], seeds=1)
    assert computed.records[0].to_json() == replayed.records[0].to_json()


def test_figures_and_reports_go_to_the_profiles_folder_with_their_records(set_session, monkeypatch):
    root = set_session(figures="pictures")
    seen = {}

    def save_figure(fig, folder, name, **rest):
        seen.update(folder=folder, name=name, **rest)

    figures = types.SimpleNamespace(save_figure=save_figure)
    monkeypatch.setitem(sys.modules, "matchbook.lab.figures", figures)
    monkeypatch.setattr(lab, "figures", figures, raising=False)
    from matplotlib.figure import Figure

    experiment = _experiment(profile="smoke")
    with pytest.raises(ValueError, match="call run"):
        experiment.figure(Figure(), "loss", numbers=pd.DataFrame(), alt="A line.")
    runs = experiment.run(Measure(), arms=ARMS, seeds=1)
    experiment.figure(Figure(), "loss", numbers=runs.table(), alt="A line.")
    assert seen["folder"] == root / "pictures" / "smoke" / "toy" / "counting"
    assert (seen["name"], seen["alt"], seen["smoke"]) == ("loss", "A line.", True)
    assert (seen["notebook"], seen["profile"]) == ("toy/counting", "smoke")
    assert seen["records"] == runs.records
    experiment.report({"loss": lab.Interval(1.0, 0.5, 2.0)})
    assert (seen["folder"] / "numbers.csv").is_file()
