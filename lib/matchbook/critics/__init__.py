"""Return distributions: four critics behind one interface, and problems whose answer is known."""

from matchbook.critics.categorical import Atoms, Categorical
from matchbook.critics.interface import Affine, Critic, Head, Target, apply_head, init_head
from matchbook.critics.mixture import Mixture, MixtureOfGaussians
from matchbook.critics.quantile import Quantile, Quantiles
from matchbook.critics.scalar import Scalar, Value

__all__ = [
    "Affine",
    "Atoms",
    "Categorical",
    "Critic",
    "Head",
    "Mixture",
    "MixtureOfGaussians",
    "Quantile",
    "Quantiles",
    "Scalar",
    "Target",
    "Value",
    "apply_head",
    "init_head",
]
