"""Timing that can be believed: warm, blocked until ready, medians, limits of the same machine."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: both rates are in `unit`; a bar is on their ratio."""

    work: str
    unit: str
    ours: float
    reference: float
    against: str
    bar: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.reference

    def __str__(self) -> str:
        bar = "" if self.bar is None else f"bar {self.bar:.2f}: {self.verdict}"
        rates = f"{self.ours:12,.1f} {self.reference:12,.1f} {self.unit:<14}"
        return f"{self.work:<34} {rates} {self.ratio:6.2f} x {self.against:<34} {bar}"

    @property
    def verdict(self) -> str:
        return "met" if self.bar is not None and self.ratio >= self.bar else "not met"


def seconds(function: Callable[[], object], *, repeats: int = 5) -> float:
    """Median wall seconds of `function`, after one call that compiles and warms."""
    jax.block_until_ready(function())
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


@cache
def matmul_flops_per_second(size: int = 2048) -> float:
    """The rate of one square float32 product on this device: the limit of dense work."""
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / seconds(lambda: product(x, x))
