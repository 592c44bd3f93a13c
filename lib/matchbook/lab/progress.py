"""Progress with the time left: a bar where someone watches, plain lines in a log.

In a terminal or a live notebook tqdm draws; a batch run or a redirected error stream gets at most
one line every ten seconds, so that a log stays readable and a short loop silent.
"""

import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

LINE_SECONDS = 10.0


class Progress:
    """Shows how far a loop is, as a context manager; all of it on the error stream.

    Args:
        name: of the loop.
        total: steps in all.
        start: the step it begins or continues at.
        batch: nobody watches: plain lines wherever the stream leads.
        stream: a text file; the error stream where None.
    """

    def __init__(
        self,
        name: str,
        total: int,
        *,
        start: int = 0,
        batch: bool = False,
        stream: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name, self._total, self._start, self._done = name, total, start, start
        self._stream = stream or sys.stderr
        self._clock = clock
        self._began = self._last_line = clock()
        self._bar: Any = None
        if not batch and (self._stream.isatty() or _live_notebook()):
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=total,
                initial=start,
                desc=name,
                unit="step",
                leave=False,
                dynamic_ncols=True,
                file=self._stream,
            )

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """`step` steps are done; `metrics` are shown beside the time left."""
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(step - self._done)
        self._done = step
        now = self._clock()
        if self._bar is None and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            share = 100 * step / self._total
            line = f"{self._name}: step {step} of {self._total} ({share:.0f} %), {self._left(now)}"
            print(f"{line}, {shown}" if shown else line, file=self._stream, flush=True)

    def _left(self, now: float) -> str:
        done = self._done - self._start
        if done <= 0:
            return "time left unknown"
        seconds = (now - self._began) / done * (self._total - self._done)
        return f"{timedelta(seconds=round(seconds))} left"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _live_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
