"""Sliders appear where a reader is, and nowhere else."""

from importlib import import_module
from types import SimpleNamespace

import pytest

from matchbook.lab import figures
from matchbook.lab.interactive import interactive

MODULE = import_module("matchbook.lab.interactive")  # as an attribute of lab it is the function


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list:
    """What was displayed."""
    things: list = []
    monkeypatch.setattr("IPython.display.display", things.append)
    return things


def set_kernel(monkeypatch: pytest.MonkeyPatch, *, kernel: bool) -> None:
    shell = SimpleNamespace(kernel=object()) if kernel else None
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)


def test_a_reader_gets_controls_that_draw_when_they_rest(
    shown: list, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(MODULE, "_live", lambda: True)
    interactive(lambda N, beta: f"{N} {beta}", N=(1, 64), beta=(0.0, 1.0, 0.1))
    first, controls = shown
    count, beta, _ = controls.children
    assert (count.min, count.max, beta.step) == (1, 64, 0.1)
    assert not count.continuous_update
    assert first == f"{count.value} {beta.value}"


def test_a_figure_is_shown_as_a_picture(shown: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MODULE, "_live", lambda: True)

    def draw(N: int):
        fig, ax = figures.subplots()
        ax.plot([0, N], label="line")
        figures.label_lines(ax)
        return fig

    interactive(draw, N=(1, 3))
    assert shown[0].data.startswith(b"\x89PNG")


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("batch", [True, False])
def test_only_a_kernel_with_a_reader_is_live(
    shown: list, monkeypatch: pytest.MonkeyPatch, set_session, kernel: bool, batch: bool
):
    set_session(batch=batch)
    set_kernel(monkeypatch, kernel=kernel)
    assert MODULE._live() is (kernel and not batch)
    if not MODULE._live():
        interactive(pytest.fail, N=(1, 64))
        assert not shown


def test_without_a_range_there_is_nothing_to_move():
    with pytest.raises(ValueError, match="at least one range"):
        interactive(print)
