"""The metrics of a training loop over its steps: averaged windows and evaluations.

Step k is the state after k updates. Unusual: the open window is kept value by value, so that
neither chunk lengths nor an interruption can change an average.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


class NonFiniteError(ArithmeticError):
    """A metric is NaN or infinite.

    Attributes:
        step: the update that gave it; the first one is 1, and 0 is the initial state's evaluation.
        metric: its name.
        value: what it was.
    """

    def __init__(self, step: int, metric: str, value: float):
        super().__init__(f"metric {metric!r} is {value} at step {step}; nothing after it was kept")
        self.step, self.metric, self.value = step, metric, value


class History:
    """Collects metrics in order.

    Args:
        log_every: steps in a window; the value logged at its end is the window's mean.
        last: the final step, which closes a window early.
    """

    def __init__(self, log_every: int, last: int):
        self._log_every, self._last = log_every, last
        self._window: dict[str, list[float]] = {}
        self._curves: dict[str, tuple[list[int], list[float]]] = {}
        self._origin: dict[str, str] = {}

    def extend(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Add what the updates up to `step` gave, one value an update, within one window.

        Raises:
            NonFiniteError: for the first update that gave such a value.
        """
        values = {name: np.asarray(x).astype(np.float64) for name, x in metrics.items()}
        first = step - max((len(x) for x in values.values()), default=0) + 1
        bad = [
            (first + int(np.argmin(finite)), name)
            for name, x in values.items()
            if not (finite := np.isfinite(x)).all()
        ]
        if bad:
            at, name = min(bad)
            raise NonFiniteError(at, name, float(values[name][at - first]))
        for name, x in values.items():
            self._claim(name, "step")
            self._window.setdefault(name, []).extend(x.tolist())
        if step % self._log_every == 0 or step == self._last:
            for name, window in self._window.items():
                self._append(name, step, float(np.mean(window)))
            self._window = {}

    def evaluated(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add an evaluation of the state after `step` updates.

        Raises:
            NonFiniteError: a value is not finite.
            ValueError: a value is no scalar, or its name is a training metric's.
        """
        for name, value in metrics.items():
            if np.ndim(value) != 0:
                raise ValueError(f"evaluate returns scalars; {name!r} has shape {np.shape(value)}")
            self._claim(name, "evaluate")
            if not math.isfinite(number := float(value)):
                raise NonFiniteError(step, name, number)
            self._append(name, step, number)

    def dump(self) -> dict[str, Any]:
        """All of it as a plain tree, for a checkpoint."""
        return {"window": self._window, "curves": self._curves, "origin": self._origin}

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Continue where `dump` was called."""
        self._window = dict(dumped["window"])
        self._curves = dict(dumped["curves"])
        self._origin = dict(dumped["origin"])

    def latest(self) -> dict[str, float]:
        """The newest value of each metric."""
        return {name: values[-1] for name, (_, values) in self._curves.items()}

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Metric -> (steps int64 [T], values float64 [T])."""
        return {
            name: (np.array(steps, np.int64), np.array(values, np.float64))
            for name, (steps, values) in self._curves.items()
        }

    def _append(self, name: str, step: int, value: float) -> None:
        steps, values = self._curves.setdefault(name, ([], []))
        steps.append(step)
        values.append(value)

    def _claim(self, name: str, origin: str) -> None:
        if self._origin.setdefault(name, origin) != origin:
            raise ValueError(f"evaluate and step both return {name!r}: rename one of them")
