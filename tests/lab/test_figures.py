"""Figures: the same bytes on any day, alt text, labels that do not touch, the smoke mark."""

import os
import subprocess
import sys
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation, Text
from PIL import Image

from matchbook.lab import figures, labels, style
from matchbook.lab.records import Record

ALT = "Loss falls over the steps of both arms; the distilled one ends lower."
NUMBERS = pd.DataFrame({"step": [0, 10], "loss": [0.1, 1 / 3]})


def record(arm: str, seed: int, **passport: object) -> Record:
    return Record(
        experiment="room/book",
        version=1,
        arm=arm,
        seed=seed,
        params={"steps": 10},
        numbers={"loss": 0.5 + seed},
        curves={"loss": (np.arange(3), np.array([3.0, 2.0, 1.0]))},
        passport={"jax": "0.11.2", "wall_seconds": 1.25, "peak_host_bytes": seed, **passport},
    )


RECORDS = [record(arm, seed) for arm in ("scratch", "distilled") for seed in range(2)]


def save(fig, folder: Path, name: str = "loss", **changed):
    settings = {
        "numbers": NUMBERS,
        "alt": ALT,
        "records": RECORDS,
        "smoke": False,
        "notebook": "room/book",
        "profile": "laptop",
        **changed,
    }
    figures.save_figure(fig, folder, name, **settings)


def draw():
    steps = np.arange(0, 100, 5)
    noise = np.random.default_rng(0).normal(0, 0.02, (3, len(steps)))
    falling = np.exp(-steps / 40) + noise
    fig, ax = figures.subplots()
    figures.plot_curves(ax, {"scratch": (steps, falling), "distilled": (steps, falling - 0.02)})
    figures.paper_line(ax, 0.1, "paper: 0.10")
    figures.paper_point(ax, 50.0, 0.5, "paper: 0.50")
    ax.set(xlabel="steps", ylabel="loss (nats per token)", title="Loss")
    return fig


def test_a_figure_is_four_files(tmp_path: Path):
    save(draw(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"loss.{ending}" for ending in ("csv", "json", "png", "svg")
    ]
    assert (tmp_path / "loss.csv").read_text() == "step,loss\n0,0.1\n10,0.3333333333333333\n"
    assert ALT in (tmp_path / "loss.svg").read_text()
    assert (tmp_path / "loss.png").stat().st_size <= 80_000


def test_redrawing_writes_the_same_bytes_whatever_the_settings_of_the_machine(tmp_path: Path):
    save(draw(), tmp_path / "here")
    (tmp_path / "matplotlibrc").write_text(
        "lines.linewidth: 7\nfont.family: monospace\nsvg.hashsalt: other\nfigure.dpi: 33\n"
        "savefig.bbox: tight\naxes.grid: False\n"
    )
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "import test_figures as t; t.save(t.draw(), Path(sys.argv[2]))"
    )
    environment = {
        **os.environ,
        "MATPLOTLIBRC": str(tmp_path),
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
        "SOURCE_DATE_EPOCH": "1",
    }
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "there")]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


def test_the_passport_speaks_of_the_records_alone(tmp_path: Path):
    import json

    save(draw(), tmp_path / "a")
    save(draw(), tmp_path / "b", records=RECORDS[::-1])
    assert (tmp_path / "a/loss.json").read_bytes() == (tmp_path / "b/loss.json").read_bytes()
    passport = json.loads((tmp_path / "a/loss.json").read_text())
    assert passport["alt"] == ALT
    assert passport["notebook"] == "room/book"
    assert passport["command"] == "matchbook run room/book --profile laptop"
    assert passport["records"] == sorted(r.file_name.removesuffix(".json") for r in RECORDS)
    assert passport["made_by"] == {"jax": "0.11.2", "wall_seconds": 5.0, "peak_host_bytes": 1}
    save(draw(), tmp_path / "c", records=[*RECORDS[:3], record("distilled", 1, jax="0.12.0")])
    other = json.loads((tmp_path / "c/loss.json").read_text())
    assert other["made_by"]["jax"] == ["0.11.2", "0.12.0"]
    assert other["digest"] == passport["digest"]  # of results, not of passports
    save(draw(), tmp_path / "d", records=RECORDS[:3])
    assert json.loads((tmp_path / "d/loss.json").read_text())["digest"] != passport["digest"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"alt": ""}, "alt text"),
        ({"alt": "  too short          "}, "alt text"),
        ({"numbers": pd.DataFrame()}, "table"),
        ({"name": "Loss curve"}, "Loss curve"),
        ({"name": "../loss"}, "../loss"),
    ],
)
def test_a_figure_that_lacks_something_is_refused(tmp_path: Path, changed: dict, named: str):
    with pytest.raises(ValueError, match="figure") as refusal:
        save(draw(), tmp_path / "new", **changed)
    assert named in str(refusal.value)
    assert not (tmp_path / "new").exists()


def test_a_smoke_picture_is_marked_and_the_mark_hides_nothing(tmp_path: Path):
    fig = draw()
    save(fig, tmp_path, "plain")
    assert not [text for text in fig.texts if "smoke" in text.get_text()]
    save(fig, tmp_path, "marked", smoke=True)
    (mark,) = [text for text in fig.texts if "smoke" in text.get_text()]
    fig.draw_without_rendering()
    box = mark.get_window_extent()
    assert fig.bbox.contains(box.x0, box.y0)
    assert fig.bbox.contains(box.x1, box.y1)
    assert not any(box.overlaps(ax.get_tightbbox()) for ax in fig.axes)
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "marked.png").read_bytes()


def test_a_picture_too_heavy_loses_resolution_and_in_the_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    noise = np.random.default_rng(0).random((150, 150))
    fig, ax = figures.subplots()
    ax.imshow(noise)
    save(fig, tmp_path, "noise")
    assert (tmp_path / "noise.png").stat().st_size <= 80_000
    save(draw(), tmp_path, "light")
    assert Image.open(tmp_path / "light.png").width == 6.4 * figures.RESOLUTIONS[0]
    monkeypatch.setattr(figures, "MAX_PNG_BYTES", 5_000)
    with pytest.raises(ValueError, match="passes 5,000 bytes even at 80 dots"):
        save(fig, tmp_path, "refused")
    assert not list(tmp_path.glob("refused*"))


def test_the_mean_and_the_band_are_those_of_student():
    from matchbook.lab.statistics import mean_interval

    values = np.random.default_rng(1).normal(size=(4, 3))
    _, ax = figures.subplots()
    figures.plot_curves(ax, {"a_b": (np.arange(3), values), "one": (np.arange(3), values[:1])})
    line, alone = ax.get_lines()
    (band,) = ax.collections  # one seed has none
    np.testing.assert_allclose(line.get_ydata(), values.mean(0))
    np.testing.assert_array_equal(alone.get_ydata(), values[0])
    corners = band.get_paths()[0].vertices
    for step in range(3):
        interval = mean_interval(values[:, step])
        at = corners[corners[:, 0] == step, 1]
        np.testing.assert_allclose([at.min(), at.max()], [interval.low, interval.high])
    assert "a b" in [text.get_text() for text in ax.texts]
    with pytest.raises(ValueError, match=r"'flat'.*got shapes"):
        figures.plot_curves(ax, {"flat": (np.arange(3), values[0])})


# Direct labels


@pytest.mark.parametrize("ends", [[0, 0, 0, 0], [0, 0.01, 0.02, 1], [5, -5, 0, 5.001]])
def test_labels_never_overlap_and_keep_their_order(tmp_path: Path, ends: list[float]):
    fig, ax = figures.subplots()
    for i, end in enumerate(ends):
        ax.plot([0, 1], [0.3 * i, end], label=f"arm {i}")
    figures.paper_line(ax, ends[0], "paper")
    figures.label_lines(ax)
    figures.label_lines(ax)  # twice changes nothing
    save(fig, tmp_path)
    fig.draw_without_rendering()
    names = [text for text in ax.texts if isinstance(text, Annotation)]
    boxes = {text.get_text(): Text.get_window_extent(text) for text in names}
    assert len(names) == len(ends) + 1
    assert not any(a.overlaps(b) for a, b in combinations(boxes.values(), 2))
    by_height = sorted(range(len(ends)), key=lambda i: (ends[i], boxes[f"arm {i}"].y0))
    heights = [boxes[f"arm {i}"].y0 for i in by_height]
    assert heights == sorted(heights)


def test_labels_that_are_clear_stay_at_their_lines(tmp_path: Path):
    fig, ax = figures.subplots()
    ax.plot([0, 1], [0, 0], label="low")
    ax.plot([0, 1, 2], [0, 1, np.nan], label="high")
    ax.plot([0, 1], [0.5, 0.5])  # without a label: no name
    figures.label_lines(ax)
    save(fig, tmp_path)
    assert {text.get_text(): text.xy[1] for text in ax.texts} == {"low": 0.0, "high": 1.0}
    for text in ax.texts:
        np.testing.assert_allclose(text.xyann, (labels.OFFSET, 0), atol=1e-6)


def brute_force(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Projection onto {places at least `gap` apart, in the order of `wanted`}, by Dykstra."""
    order = np.argsort(wanted, kind="stable")
    x = wanted[order].astype(float)
    corrections = np.zeros((len(x) - 1, 2))
    for _ in range(4000):
        for i in range(len(x) - 1):
            pair = x[i : i + 2] - corrections[i]
            short = max(0.0, gap - (pair[1] - pair[0])) / 2
            moved = pair + np.array([-short, short])
            corrections[i], x[i : i + 2] = moved - pair, moved
    places = np.empty_like(x)
    places[order] = x
    return places


@pytest.mark.parametrize("seed", range(5))
def test_labels_move_as_little_as_possible(seed: int):
    wanted = np.random.default_rng(seed).normal(0, 20, 6)
    places = labels.apart(list(wanted), 12.0, -1e9, 1e9)
    np.testing.assert_allclose(places, brute_force(wanted, 12.0), atol=1e-3)


def test_labels_stay_in_the_frame_where_they_fit():
    places = labels.apart([95.0, 99.0, 100.0], 10.0, 0.0, 100.0)
    np.testing.assert_allclose(places, [80, 90, 100])
    places = labels.apart([1.0, 0.0, -5.0], 10.0, 0.0, 100.0)
    np.testing.assert_allclose(places, [20, 10, 0])


# Colours


@pytest.mark.parametrize("color", [*style.PALETTE.values(), *style.ROLES.values(), "#ffffff"])
def test_ink_can_be_read_on_white(color: str):
    assert style.contrast_on_white(style.ink(color)) >= 4.5


def test_arms_get_different_colors_and_roles_keep_theirs():
    arms = ["mine", "distilled", "yours", "scratch"]
    colors = style.arm_colors(arms)
    assert list(colors.values()) != []
    assert len(set(colors.values())) == len(arms)
    assert colors["distilled"] == style.ROLES["distilled"]
    assert len(set(style.shades("abcdefgh").values())) == 8
    with pytest.raises(ValueError, match="shades"):
        style.arm_colors([f"arm {i}" for i in range(9)])


def test_contrast_is_that_of_wcag():
    assert style.contrast_on_white("#000000") == pytest.approx(21)
    assert style.contrast_on_white("#ffffff") == pytest.approx(1)
    assert style.contrast_on_white("#767676") == pytest.approx(4.54, abs=0.005)  # its own example


def test_figures_are_unknown_to_pyplot():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    fig, axes = figures.subplots(2, 2)
    assert axes.shape == (2, 2)
    fig.savefig(BytesIO(), format="png")
    assert pyplot.get_fignums() == before
