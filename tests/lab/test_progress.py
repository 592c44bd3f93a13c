"""Progress: few lines in a log with the right time left, a bar in a terminal."""

import io

from matchbook.lab.progress import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def _lines(total, seconds_a_step, start=0):
    stream, clock = io.StringIO(), Clock()
    with Progress("student", total, start=start, stream=stream, clock=clock) as progress:
        for step in range(start + 1, total + 1):
            clock.now += seconds_a_step
            progress.update(step, {"loss": 2.34567, "gap": 1e-9})
    return stream.getvalue().splitlines()


def test_a_short_loop_is_silent():
    assert _lines(total=99, seconds_a_step=0.1) == []


def test_a_log_gets_a_line_every_ten_seconds_with_the_time_left():
    lines = _lines(total=100, seconds_a_step=1.0)
    assert len(lines) == 10
    assert lines[0] == "student: step 10 of 100 (10 %), 0:01:30 left, loss 2.346, gap 1e-09"
    assert lines[-1].startswith("student: step 100 of 100 (100 %), 0:00:00 left")


def test_slow_steps_get_one_line_each():
    assert len(_lines(total=5, seconds_a_step=60.0)) == 5


def test_after_resuming_the_time_left_counts_only_the_steps_made_here():
    lines = _lines(total=1000, seconds_a_step=10.0, start=990)
    assert lines[0].startswith("student: step 991 of 1000 (99 %), 0:01:30 left")


def test_a_terminal_gets_a_bar_unless_it_is_a_batch_run():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for batch in (False, True):
        stream = Terminal()
        with Progress("student", 10, batch=batch, stream=stream) as progress:
            progress.update(5, {"loss": 1.5})
            progress.update(10, {"loss": 1.25})
        assert ("\r" in stream.getvalue()) is not batch
        assert ("student" in stream.getvalue()) is not batch
