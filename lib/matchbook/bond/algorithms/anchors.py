"""What becomes of the anchor after an update: it stays, follows, or jumps (BOND, Eq. 18, Alg. 1).

Unusual: the anchor is kept in float32 whatever the policy's type. In bfloat16 a moving average with
eta = 0.02 would lose every change below 2^-9 of a weight's size.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from matchbook.bond.policies import Weights

AnchorUpdate = Callable[[Weights, Weights, Int[Array, ""]], Weights]
"""``(anchor, new policy weights, updates done) -> anchor``. Equal settings give equal ones."""

Scalar = int | float | Float[Array, ""]


def float32(weights: Weights) -> Weights:
    """A float32 copy."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), weights)


def fixed(anchor: Weights, weights: Weights, step: Int[Array, ""]) -> Weights:
    """The anchor stays the reference: plain BOND, and every baseline."""
    return anchor


@functools.lru_cache
def ema(eta: int | float) -> AnchorUpdate:
    """``anchor + eta * (weights - anchor)`` after each update, with the new weights: Eq. 18.

    Raises:
      ValueError: if `eta` is outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is the share of the new weights: expected 0 <= eta <= 1, got {eta}")
    return functools.partial(_ema, eta)


@functools.lru_cache
def hard(period: int) -> AnchorUpdate:
    """The anchor becomes the policy every `period` updates: Algorithm 1, and Figure 5's ablation.

    Raises:
      ValueError: if `period` is below 1.
    """
    if period < 1:
        raise ValueError(f"the anchor moves every period >= 1 updates, got {period}")
    return functools.partial(_hard, period)


def moving(eta: Scalar, period: Int[Array, ""] | int = 1) -> AnchorUpdate:
    """`ema` and `hard` in one: every `period` updates the anchor goes `eta` of the way.

    Both may be traced, so that a sweep over anchors is one program: see `arguments.bound`. An `eta`
    of 0 is `fixed`.
    """

    def update(anchor: Weights, weights: Weights, step: Int[Array, ""]) -> Weights:
        share = jnp.where(step % period == 0, jnp.float32(eta), jnp.float32(0))
        return _ema(share, anchor, weights, step)

    return update


def _ema(eta: Scalar, anchor: Weights, weights: Weights, step: Int[Array, ""]) -> Weights:
    return jax.tree.map(lambda a, w: a + eta * (w.astype(jnp.float32) - a), anchor, weights)


def _hard(period: int, anchor: Weights, weights: Weights, step: Int[Array, ""]) -> Weights:
    moves = step % period == 0
    return jax.tree.map(lambda a, w: jnp.where(moves, w.astype(jnp.float32), a), anchor, weights)
