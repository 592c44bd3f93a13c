"""Exact laws of returns, and how far a critic's distribution is from one.

The laws of `problems`. Unusual: integrals run over edges gathered from where both cdfs change, so
that an atom, a spike of width 1e-4 and a law at 10,000 are all resolved.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float
from scipy.special import ndtr, ndtri

BISECTIONS = 60
# Probabilities at which a law is cut: 399 even slices, and tails down to 1e-7.
TAIL = np.geomspace(1e-7, 2e-3, 24)
LEVELS = np.sort(np.concatenate([TAIL, np.arange(1, 400) / 400, 1 - TAIL]))


@dataclass(frozen=True)
class Law:
    """A distribution of returns, known exactly.

    Arguments:
        mean: in units of return.
        std: in units of return.
        cdf: probability of not being above a value; traceable, float32 in and out.
        quantile: inverse of `cdf`; NumPy, float64 in and out.
        atoms: values of positive probability.
    """

    mean: float
    std: float
    cdf: Callable[[Array], Array]
    quantile: Callable[[np.ndarray], np.ndarray]
    atoms: tuple[float, ...] = ()

    def sample(self, rng: np.random.Generator, n: int) -> Float[np.ndarray, " n"]:
        """Independent draws, by inverting the cdf."""
        return self.quantile(rng.random(n))

    def knots(self) -> Float[np.ndarray, " knots"]:
        """Points between which the cdf changes by 1/400 at most, but for jumps at atoms."""
        values = self.quantile(LEVELS)
        values[: len(self.atoms)] = self.atoms
        return values

    def grid(self) -> Float[np.ndarray, " points"]:
        """121 even points to draw it at: its central 99.6 %, and a quarter more on each side."""
        low, high = self.quantile(np.asarray([0.002, 0.998]))
        margin = 0.25 * (high - low)
        return np.round(np.linspace(low - margin, high + margin, 121), 5)


def gaussian(mean: float, std: float) -> Law:
    """N(mean, std^2)."""
    return Law(
        mean,
        std,
        lambda values: norm.cdf(values, mean, std),
        lambda levels: mean + std * ndtri(levels),
    )


def two_gaussians(means: tuple[float, float], std: float) -> Law:
    """Half N(means[0], std^2) and half N(means[1], std^2)."""
    low, high = means

    def quantile(levels: np.ndarray) -> np.ndarray:
        below = np.full_like(levels, low - 9 * std)
        above = np.full_like(levels, high + 9 * std)
        for _ in range(BISECTIONS):
            middle = 0.5 * (below + above)
            reached = 0.5 * (ndtr((middle - low) / std) + ndtr((middle - high) / std)) >= levels
            below, above = np.where(reached, below, middle), np.where(reached, middle, above)
        return 0.5 * (below + above)

    return Law(
        0.5 * (low + high),
        math.hypot(std, 0.5 * (high - low)),
        lambda values: 0.5 * (norm.cdf(values, low, std) + norm.cdf(values, high, std)),
        quantile,
    )


def exponential(mean: float) -> Law:
    """The exponential law with this mean."""
    return Law(
        mean,
        mean,
        lambda values: -jnp.expm1(-jnp.maximum(values, 0) / mean),
        lambda levels: -mean * np.log1p(-levels),
    )


def uniform(low: float, high: float) -> Law:
    """Even on [low, high]."""
    width = high - low
    return Law(
        0.5 * (low + high),
        width / math.sqrt(12),
        lambda values: jnp.clip((values - low) / width, 0, 1),
        lambda levels: low + width * levels,
    )


def two_points(low: float, high: float, probability: float) -> Law:
    """`high` with this probability, otherwise `low`."""

    def cdf(values: Array) -> Array:
        above_high = jnp.where(values >= high, 1.0, 1 - probability)
        return jnp.where(values >= low, above_high, 0.0)

    return Law(
        low + probability * (high - low),
        (high - low) * math.sqrt(probability * (1 - probability)),
        cdf,
        lambda levels: np.where(levels <= 1 - probability, low, high),
        (low, high),
    )


class Distances(NamedTuple):
    """Three distances between two laws `F` and `G`; each array is `[*batch]`.

    `wasserstein` (W1) is the integral of |F - G|, in units of return. `crps` is the integral of
    (F - G)^2, in units of return: how much worse F forecasts draws of G than G itself does, by the
    continuous ranked probability score. `kolmogorov` is the largest |F - G|.
    """

    wasserstein: Array
    crps: Array
    kolmogorov: Array


def distances(
    model_cdf: Callable[[Array], Array],
    law_cdf: Callable[[Array], Array],
    knots: Float[Array, "knots *batch"],
) -> Distances:
    """Midpoint rule between sorted knots; exact where both cdfs are constant.

    Arguments:
        model_cdf: maps values of shape `[points, *batch]` to probabilities.
        law_cdf: likewise.
        knots: points around which the two cdfs change; their extremes must hold all the mass.
    """
    edges = jnp.sort(knots, axis=0)
    middles, widths = 0.5 * (edges[1:] + edges[:-1]), edges[1:] - edges[:-1]
    gaps = jnp.abs(model_cdf(middles) - law_cdf(middles))
    gaps = jnp.where(widths > 0, gaps, 0)  # an empty slice at a jump says nothing
    return Distances(
        jnp.sum(gaps * widths, axis=0),
        jnp.sum(jnp.square(gaps) * widths, axis=0),
        jnp.max(gaps, axis=0),
    )
