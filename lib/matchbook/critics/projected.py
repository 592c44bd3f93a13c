"""Where C51 ends up on the Gaussian loop: the exact fixed point of its projected Bellman operator.

What Shahriari et al. 2022 say of C51's support, made exact. NumPy in float64: a projected Bellman
step is a Markov chain on the atoms, and its stationary law is what C51 can learn at best.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float
from scipy.sparse.linalg import spsolve
from scipy.special import ndtr, ndtri

REACH = 9.0  # standard deviations of reward beyond which a transition has no mass in float64


class FixedPoint(NamedTuple):
    """A C51 distribution: `probabilities` on `atoms`, with their mean and standard deviation."""

    atoms: Float[np.ndarray, " atoms"]
    probabilities: Float[np.ndarray, " atoms"]
    mean: float
    std: float


def midpoint_rewards(mean: float, std: float, n: int) -> Float[np.ndarray, " n"]:
    """N(mean, std^2) as `n` equal masses at the middles of its quantile slices.

    At n = 201 the variance is 0.64 % short: the rewards behind the tabulated fixed points.
    """
    return mean + std * ndtri((np.arange(n) + 0.5) / n)


def fixed_point(
    rewards: Float[np.ndarray, " rewards"],
    discount: float,
    atoms: Float[np.ndarray, " atoms"],
    reward_std: float = 0.0,
) -> FixedPoint:
    """The one law that a projected Bellman step of a one-state loop leaves as it is.

    There is one only, since the operator is a contraction in the Cramer distance (Rowland et al.
    2018); it solves a sparse linear system.

    Arguments:
        rewards: equally likely centres of the reward.
        discount: below 1.
        atoms: evenly spaced and ascending; returns outside are clipped to the ends.
        reward_std: of a Gaussian around each centre, integrated in closed form; 0 for none.

    Raises:
        ValueError: if `discount` is not below 1, where there may be no fixed point.
    """
    if not 0 <= discount < 1:
        raise ValueError(f"discount must be in [0, 1), got {discount}; the loop never ends")
    operator = _operator(np.add.outer(rewards, discount * atoms), reward_std, atoms)
    system = scipy.sparse.lil_array(operator - scipy.sparse.eye_array(len(atoms)))
    system[0] = 1.0  # one equation follows from the others: it gives way to "they sum to 1"
    right = np.zeros(len(atoms))
    right[0] = 1.0
    probabilities = np.maximum(spsolve(system.tocsc(), right), 0.0)
    mean = float(probabilities @ atoms)
    std = float(np.sqrt(probabilities @ (atoms - mean) ** 2))
    return FixedPoint(atoms, probabilities, mean, std)


def _operator(
    centres: Float[np.ndarray, "rewards atoms"], std: float, atoms: Float[np.ndarray, " atoms"]
) -> scipy.sparse.csr_array:
    """Column j: the mixture of N(centres[:, j], std^2), clipped and shared among the atoms.

    The share of atom i is `E hat_i(X)`, a second difference of `c(a) = E max(X - a, 0)`.
    """
    step = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    width = min(len(atoms), int(2 * REACH * std / step) + 4)
    first = np.floor((centres.ravel() - REACH * std - atoms[0]) / step).astype(int)
    rows = np.clip(first, 0, len(atoms) - width)[:, None] + np.arange(width)
    points = atoms[0] + step * (np.arange(-1, width + 1) + rows[:, :1])
    beyond = centres.reshape(-1, 1) - points
    if std > 0:
        density = np.exp(-0.5 * (beyond / std) ** 2) / np.sqrt(2 * np.pi)
        calls = beyond * ndtr(beyond / std) + std * density
    else:
        calls = np.maximum(beyond, 0)
    slopes = np.diff(calls) / step  # minus the mean survival on each interval
    slopes[rows[:, 0] == 0, 0] = -1.0  # clipping: all that lies below belongs to the lowest atom
    slopes[rows[:, -1] == len(atoms) - 1, -1] = 0.0  # and all above to the highest
    shares = np.maximum(np.diff(slopes), 0.0) / len(centres)
    columns = np.broadcast_to(np.arange(centres.size)[:, None] % len(atoms), rows.shape)
    return scipy.sparse.csr_array(  # which adds up what falls into the same place
        (shares.ravel(), (rows.ravel(), columns.ravel())), shape=(len(atoms), len(atoms))
    )
