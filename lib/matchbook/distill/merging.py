"""Several models made one by averaging their weights (Gemma 2, section 4, after WARP).

WARP (2406.16768) has three averages: an exponential one along training, a spherical one across
runs, and a straight line back to where they started. Unusual: the sphere is about the *start*, not
about zero, and each layer turns by its own angle, also where layers are stacked in one array.
All are computed in float32 and returned in the dtype of what came in.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

Weights = Any  # a nest of arrays of floating-point numbers
STACKED = "pairs"  # the Transformer's scanned layers: a leading dimension counts them


def average(models: Sequence[Weights]) -> Weights:
    """The uniform mean of the weights; of equal models, exactly that model.

    Raises:
      ValueError: no model, or models of different structure.
    """
    if not models:
        raise ValueError("models: expected at least one model to average, got none")

    def mean(*leaves: Array) -> Array:
        total = leaves[0].astype(jnp.float32)
        for count, leaf in enumerate(leaves[1:], start=2):
            total = total + (leaf.astype(jnp.float32) - total) / count
        return total.astype(leaves[0].dtype)

    return _map(mean, *models)


def moving_average_start(weights: Weights) -> Weights:
    """The exponential average before the first update: the weights themselves, in float32.

    So it is an average of weights from the start, and there is no pull towards zero to correct.
    It stays float32: at a rate of 0.01 most updates round to nothing in bfloat16.
    """
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), weights)


def moving_average(average: Weights, weights: Weights, rate: int | float) -> Weights:
    """``(1 - rate) * average + rate * weights``: WARP, Eq. EMA, where the rate is 0.01.

    Raises:
      ValueError: a rate outside [0, 1], or trees of different structure.
    """
    return interpolate(average, weights, rate)


class Averaged(NamedTuple):
    """The state of `averaged_step`: any step's own, and the average of its weights."""

    inner: Any
    average: Weights

    @property
    def weights(self) -> Weights:
        return self.average


def averaged_state(inner: Any) -> Averaged:
    """The state before the first step, from the step's own."""
    return Averaged(inner, moving_average_start(inner.weights))


def averaged_step(step: Callable[..., Any], rate: int | float) -> jax.tree_util.Partial:
    """A training step that keeps the moving average of its weights beside them.

    Raises:
      ValueError: a rate outside [0, 1].
    """
    _check_share(rate, "rate")
    bound = step if isinstance(step, jax.tree_util.Partial) else jax.tree_util.Partial(step)
    return jax.tree_util.Partial(_averager(rate), bound)


@functools.lru_cache
def _averager(rate: int | float) -> Callable[..., Any]:
    def averaged(step: Callable[..., Any], state: Averaged, batch: Any) -> tuple[Averaged, Any]:
        inner, metrics = step(state.inner, batch)
        average = moving_average(state.average, inner.weights, rate)
        return Averaged(inner, average), metrics

    return averaged


def interpolate(start: Weights, end: Weights, share: int | float) -> Weights:
    """``(1 - share) * start + share * end``; towards the initialisation it is WARP's Eq. LITI.

    With `start` the initial weights and `end` the merged ones, WARP goes on from a share of 0.3.

    Raises:
      ValueError: a share outside [0, 1], or trees of different structure.
    """
    _check_share(share)

    def line(start: Array, end: Array) -> Array:
        a, b = start.astype(jnp.float32), end.astype(jnp.float32)
        # From the nearer end: exact at both, and where they are equal.
        between = a + share * (b - a) if share < 0.5 else b - (1 - share) * (b - a)
        return between.astype(start.dtype)

    return _map(line, start, end)


def slerp(init: Weights, first: Weights, second: Weights, share: int | float) -> Weights:
    """Spherical interpolation about `init`: WARP, Eq. SLERP.

    ``init + (sin((1 - share) * angle) * d1 + sin(share * angle) * d2) / sin(angle)`` with the
    differences d1 and d2 of the two models from `init`. Where d1 and d2 have one norm, so has the
    result. Each layer has its own angle: of a `Transformer`, each layer of its pairs, the embedding
    table, and the final norm. Where the two point the same way or opposite ways (to a thousandth),
    or one of them is zero, there is no circle to follow and the line is taken.

    Raises:
      ValueError: a share outside [0, 1], or trees of different structure.
    """
    _check_share(share)
    _check_alike(init, first, second)
    leaves, structure = jax.tree_util.tree_flatten_with_path(init)
    starts = [leaf.astype(jnp.float32) for _, leaf in leaves]
    layers = [_layer(path) for path, _ in leaves]
    d1, d2 = (
        [end.astype(jnp.float32) - start for end, start in zip(jax.tree.leaves(model), starts)]
        for model in (first, second)
    )
    angles = _angles(layers, d1, d2)
    merged = [
        start + _scale(_arc(angles[layer], 1 - share), a) + _scale(_arc(angles[layer], share), b)
        for start, layer, a, b in zip(starts, layers, d1, d2)
    ]
    rounded = [new.astype(old.dtype) for new, (_, old) in zip(merged, leaves)]
    return jax.tree.unflatten(structure, rounded)


def slerp_average(init: Weights, models: Sequence[Weights]) -> Weights:
    """All models with equal weight, one after the other: WARP, Appendix B.3.

    The m-th model joins what the earlier ones made with a share of 1/m. The order matters a little.

    Raises:
      ValueError: no model, or trees of different structure.
    """
    if not models:
        raise ValueError("models: expected at least one model to merge, got none")
    merged = models[0]
    for count, model in enumerate(models[1:], start=2):
        merged = slerp(init, merged, model, 1 / count)
    return merged


class _Layer(NamedTuple):
    """What shares an angle: a layer of the pairs (all its tensors), or a top-level part."""

    place: tuple[Any, ...]
    stacked: bool


def _layer(path: tuple[Any, ...]) -> _Layer:
    stacked = bool(path) and getattr(path[0], "key", None) == STACKED
    return _Layer(path[: 2 if stacked else 1], stacked)


def _angles(layers: list[_Layer], d1: list[Array], d2: list[Array]) -> dict[_Layer, Array]:
    """The angle between two differences in each layer: a number, or one for each of a stack.

    2 * atan2(|u - v|, |u + v|) of unit vectors: right to rounding also near 0 and pi, where the
    arc cosine of a product is not. No direction gives 0.
    """
    norms1, norms2 = _norms(layers, d1), _norms(layers, d2)
    u = [_scale(_inverse(norms1[layer]), x) for layer, x in zip(layers, d1)]
    v = [_scale(_inverse(norms2[layer]), x) for layer, x in zip(layers, d2)]
    apart = _norms(layers, [a - b for a, b in zip(u, v)])
    together = _norms(layers, [a + b for a, b in zip(u, v)])
    return {
        layer: jnp.where(
            (norms1[layer] > 0) & (norms2[layer] > 0),
            2 * jnp.arctan2(apart[layer], together[layer]),
            0,
        )
        for layer in norms1
    }


def _norms(layers: list[_Layer], leaves: list[Array]) -> dict[_Layer, Array]:
    """The Euclidean norm over all tensors of each layer."""
    squares: dict[_Layer, Array] = {}
    for layer, leaf in zip(layers, leaves):
        square = jnp.sum(leaf**2, axis=tuple(range(1, leaf.ndim)) if layer.stacked else None)
        squares[layer] = squares[layer] + square if layer in squares else square
    return {layer: jnp.sqrt(square) for layer, square in squares.items()}


def _inverse(norm: Array) -> Array:
    return jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)


def _arc(angle: Array, share: int | float) -> Array:
    """sin(share * angle) / sin(angle), and `share` where there is no circle."""
    bent = jnp.sin(angle) > 1e-3  # below, near 0, the two are equal in float32
    safe = jnp.where(bent, angle, 1)
    return jnp.where(bent, jnp.sin(share * safe) / jnp.sin(safe), share)


def _scale(per_layer: Array, leaf: Array) -> Array:
    """`leaf` times a number for each layer of its stack, or for all of it."""
    return per_layer.reshape(per_layer.shape + (1,) * (leaf.ndim - per_layer.ndim)) * leaf


def _map(function: Callable[..., Array], *trees: Weights) -> Weights:
    _check_alike(*trees)
    return jax.tree.map(function, *trees)


def _check_alike(*trees: Weights) -> None:
    shapes = [jax.tree.map(lambda leaf: str(leaf.shape), tree) for tree in trees]
    for other in shapes[1:]:
        if other != shapes[0]:
            raise ValueError(f"expected models of one structure, got {shapes[0]} and {other}")


def _check_share(share: int | float, name: str = "share") -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {share}")
