"""Kernels that mask by place in a row: where that agrees with positions, and what to do elsewhere.

Unusual: `jit` hides the values of positions, so a kernel cannot always refuse them; what it cannot
refuse becomes NaN, never an answer to another question.
"""

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int


def in_order(
    positions: Int[Array, "batch time"], segments: Int[Array, "batch time"]
) -> Bool[Array, " batch"]:
    """Whether a row's documents each lie in one piece, with positions rising by 1 at each place.

    Packed rows and padding on either side are in order. Then a window of places is a window of
    positions, and causal by place is causal by position.
    """
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
    by_one = positions[:, 1:] - positions[:, :-1] == 1
    goes_on = jnp.concatenate([jnp.zeros_like(same[:, :1]), same], axis=1)
    pieces = jnp.sort(jnp.where(goes_on, 0, segments), axis=1)  # one entry for each piece, else 0
    again = (pieces[:, 1:] == pieces[:, :-1]) & (pieces[:, 1:] != 0)
    return (by_one | ~same).all(1) & ~again.any(1)


def require_order(
    positions: Int[Array, "batch time"], segments: Int[Array, "batch time"], name: str
) -> None:
    """Raise ValueError for rows that are not in order, if their values are known here."""
    if isinstance(positions, Tracer) or isinstance(segments, Tracer):
        return
    wrong = jnp.flatnonzero(~in_order(positions, segments))
    if wrong.size:
        raise ValueError(
            f"attention {name!r}: expected rows with each document in one piece and positions "
            f"rising by 1, got others in row {wrong[0]}: take 'blockwise', which takes any order"
        )


def only_what_is_asked(
    out: Float[Array, "batch time heads head_dim"],
    positions: Int[Array, "batch time"],
    segments: Int[Array, "batch time"],
) -> Float[Array, "batch time heads head_dim"]:
    """`out` with zeros at padding, and with NaN all over rows that are not in order."""
    out = jnp.where((segments != 0)[:, :, None, None], out, jnp.zeros((), out.dtype))
    fine = in_order(positions, segments)[:, None, None, None]
    return jnp.where(fine, out, jnp.asarray(jnp.nan, out.dtype))
