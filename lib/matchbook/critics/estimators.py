"""How good the mixture's two estimators are: gradient error against an exact gradient, and cost.

For the choice that Shahriari et al. 2022 leave open: their loss draws 128 returns of each of 20
actions; Gauss-Hermite nodes cost less. The exact gradient here is a formula summed over a fine grid
in float64. Unusual: three moments of training are looked at, since what is exact late is not early.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import softmax

from matchbook.critics.interface import Key, Target
from matchbook.critics.mixture import Mixture, MixtureOfGaussians

ACTIONS, BATCH, COMPONENTS = 20, 16, 5
GRID, REACH = 1001, 9.0  # points on each component of the target, and standard deviations


class Moment(NamedTuple):
    """A batch of predictions, leaves `[batch, components]`, and of targets for them."""

    model: Mixture
    target: Target


MOMENTS = {
    # spread of rewards, of component means and of log widths, and the widths' middle, in order
    "fresh": (0.5, 0.003, 0.003, 1.1e-3),  # all still at the origin, as wide as they began
    "narrow": (0.5, 1.0, 0.5, 0.1),  # means have moved, widths are ten times less than distances
    "matched": (0.0, 1.0, 0.5, 1.0),  # widths as large as distances; the model is near its target
}


@cache
def moment(name: str, seed: int = 0) -> Moment:
    """One of `MOMENTS`, drawn in NumPy: `reward + 0.95 Z` against a noisy copy of `Z`."""
    reward, means, log_widths, width = MOMENTS[name]
    rng, shape = np.random.default_rng(seed), (BATCH, COMPONENTS)

    def law(near: Float[np.ndarray, "3 *batch k"], share: float) -> Float[np.ndarray, "3 *batch k"]:
        noise = rng.normal(size=(3, *near.shape[1:]))
        return np.sqrt(1 - share**2) * near + share * noise

    base = rng.normal(size=(3, *shape))
    following = law(np.broadcast_to(base[:, None], (3, ACTIONS, *shape)), 0.3)
    model = law(base, 0.3)

    def mixture(raw: Float[np.ndarray, "3 *batch k"]) -> Mixture:
        leaves = 0.5 * raw[0], means * raw[1], width * np.exp(log_widths * raw[2])
        return Mixture(*(jnp.asarray(leaf, jnp.float32) for leaf in leaves))

    rewards = jnp.asarray(reward * rng.normal(size=BATCH), jnp.float32)
    return Moment(mixture(model), Target(rewards, jnp.full(BATCH, 0.95), mixture(following)))


def exact_gradient(moment: Moment) -> Float[np.ndarray, "batch parameters"]:
    """Of each row's cross-entropy, in logits, means and log scales, by formula and a fine grid."""
    rewards, discounts, following = moment.target
    return np.stack(
        [
            _exact_row(
                *(np.asarray(leaf[row], np.float64) for leaf in moment.model),
                *(np.asarray(leaf[:, row], np.float64) for leaf in following),
                float(rewards[row]),
                float(discounts[row]),
            )
            for row in range(len(rewards))
        ]
    )


def _exact_row(
    logits: np.ndarray,
    means: np.ndarray,
    scales: np.ndarray,
    next_logits: np.ndarray,
    next_means: np.ndarray,
    next_scales: np.ndarray,
    reward: float,
    discount: float,
) -> Float[np.ndarray, " parameters"]:
    """Gradients `w - E rho`, `-E rho (y - mu) / s^2` and `E rho (1 - (y - mu)^2 / s^2)`."""
    steps = np.linspace(-REACH, REACH, GRID)
    shares = np.exp(-0.5 * steps**2)
    weights = (
        softmax(next_logits, -1)[..., None] * shares / shares.sum() / len(next_logits)
    ).ravel()
    y = (reward + discount * (next_means[..., None] + next_scales[..., None] * steps)).ravel()
    scaled = (y[:, None] - means) / scales
    rho = softmax(logits - np.log(scales) - 0.5 * scaled**2, axis=-1) * weights[:, None]
    of_means, of_scales = (rho * scaled).sum(0), (rho * (1 - scaled**2)).sum(0)
    return np.concatenate([softmax(logits) - rho.sum(0), -of_means / scales, of_scales])


@partial(jax.jit, static_argnums=0)
def gradient(
    critic: MixtureOfGaussians, moment: Moment, key: Key
) -> Float[Array, "batch parameters"]:
    """The estimator's gradient of each row's loss, in logits, means and log scales."""

    def loss(model: Mixture) -> Array:
        law = model._replace(scales=jnp.exp(model.scales))
        return jnp.sum(critic.loss(law, moment.target, key))

    found = jax.grad(loss)(moment.model._replace(scales=jnp.log(moment.model.scales)))
    return jnp.concatenate(list(found), axis=-1)


def errors(
    critic: MixtureOfGaussians, name: str, repeats: int = 16, seed: int = 0
) -> dict[str, float]:
    """Bias and noise of an estimator's gradient at one of `MOMENTS`, in lengths of the exact one.

    `bias` is the length of (mean over draws - exact), with the draws' own noise taken out; `noise`
    the root mean square distance of one draw from the draws' mean; `error` that of one draw from
    the exact gradient. All are for single rows, and combined by their root mean square.
    """
    drawn_from, keys = moment(name, seed), jax.random.split(jax.random.key(seed), repeats)
    if critic.estimator == "quadrature":
        keys = keys[:1]
    found = np.stack([np.asarray(gradient(critic, drawn_from, key), np.float64) for key in keys])
    exact = _exact(name, seed)
    length = np.sum(exact**2)
    middle = found.mean(0)
    noise = np.sum((found - middle) ** 2) / max(1, len(keys) - 1) / length
    bias = np.sum((middle - exact) ** 2) / length - noise / len(keys)
    error = np.mean(np.sum((found - exact) ** 2, (1, 2))) / length
    values = {"bias": max(bias, 0.0), "noise": noise, "error": error}
    return {quantity: float(np.sqrt(value)) for quantity, value in values.items()}


def points(critic: MixtureOfGaussians) -> int:
    """At how many returns the loss of one transition evaluates its mixture."""
    each = critic.num_samples if critic.estimator == "sampled" else COMPONENTS * critic.num_nodes
    return ACTIONS * each


@cache
def _exact(name: str, seed: int) -> Float[np.ndarray, "batch parameters"]:
    return exact_gradient(moment(name, seed))
