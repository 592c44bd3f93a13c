"""What the mixture's head and loss promise, computed: start values, target counts, gradients.

Shahriari et al. 2022 and their code in Acme. Each function returns named numbers.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtr

from matchbook.critics.categorical import Categorical
from matchbook.critics.interface import Key, Target, apply_head, init_head
from matchbook.critics.mixture import Mixture, MixtureOfGaussians

# Two mixtures of three components, far from symmetric: where gradients are compared.
MODEL = Mixture(*np.array([[0.3, -0.2, 0.5], [-1, 0.5, 2], [0.7, 1.5, 0.9]], np.float32))
NEXT = Mixture(*np.array([[0, 0.4, -0.6], [-0.5, 1, 3], [0.4, 0.8, 0.6]], np.float32))
REWARD, DISCOUNT = 0.7, 0.9


def parameterisation(key: Key, num_features: int = 256) -> dict[str, float]:
    """A fresh head on random features: the largest distances from 1/K and 0, and the mean scale."""
    head_key, feature_key = jax.random.split(key)
    critic = MixtureOfGaussians()
    features = jax.random.normal(feature_key, (64, num_features), jnp.float32)
    head = init_head(critic, head_key, num_features)
    fresh = jax.jit(partial(apply_head, critic))(head, features)
    logits, means, scales = (np.asarray(leaf, np.float64) for leaf in fresh)
    weights = _softmax(logits)
    return {
        "weight": float(weights.mean()),
        "weight_deviation": float(np.abs(weights - 1 / critic.components).max()),
        "mean_deviation": float(np.abs(means).max()),
        "scale": float(scales.mean()),
        "softplus_0": float(np.logaddexp(0, 0)),
    }


def targets_per_transition(actions: int = 20) -> dict[str, float]:
    """How many scalar targets one transition has, counted on the arrays (of which none is made)."""
    critic = MixtureOfGaussians(estimator="sampled")

    def points_of(leaf: Array) -> Array:
        target = Target(jnp.zeros(1), jnp.ones(1), Mixture(leaf, leaf, leaf))
        return critic.target_points(target, jax.random.key(0))[0]

    leaf = jax.ShapeDtypeStruct((actions, 1, critic.components), jnp.float32)
    points = jax.eval_shape(points_of, leaf)
    counts = {"actions": actions, "returns": critic.num_samples, "targets": points.shape[0]}
    return {name: float(count) for name, count in counts.items()}


def control_suite(discount: float = 0.99) -> dict[str, float]:
    """Rewards in [0, 1] for ever, against the support that DMPO has for the control suite."""
    atoms = np.asarray(Categorical().atoms, np.float64)
    return {
        "max_discounted_return": 1 / (1 - discount),
        "v_max": float(atoms[-1]),
        "bin_width": float(atoms[1] - atoms[0]),
    }


def single_component(seed: int, points: int = 4096) -> dict[str, float]:
    """K = 1: the loss's gradient in the mean against `(mu - E y) / s^2`, largest relative error."""
    critic, mean, scale = MixtureOfGaussians(components=1), 0.3, 1.7

    @jax.jit
    def gradient(mean: Float[Array, ""], targets: Float[Array, " points"]) -> Array:
        def loss(mean: Array) -> Array:
            model = Mixture(jnp.zeros(1), mean[None], jnp.full(1, scale))
            return -jnp.mean(critic.log_density(model, targets))

        return jax.grad(loss)(mean)

    targets = 2 + 3 * np.random.default_rng(seed).normal(size=points)
    ours = float(gradient(jnp.asarray(mean, jnp.float32), jnp.asarray(targets, jnp.float32)))
    expected = (mean - float(targets.mean())) / scale**2
    return {"gradient": ours, "relative_error": abs(ours / expected - 1)}


@partial(jax.jit, static_argnums=0)
def mixture_gradient(critic: MixtureOfGaussians, key: Key) -> Float[Array, " parameters"]:
    """The loss's gradient at `MODEL` for the target `REWARD + DISCOUNT * NEXT`, as one vector:
    logits, then means, then scales.
    """
    batch = jax.tree.map(lambda leaf: leaf[None], MODEL)
    following = jax.tree.map(lambda leaf: leaf[None, None], NEXT)
    target = Target(jnp.full(1, REWARD), jnp.full(1, DISCOUNT), following)
    gradient = jax.grad(lambda model: jnp.sum(critic.loss(model, target, key)))(batch)
    return jnp.concatenate([leaf[0] for leaf in gradient])


def exact_mixture_gradient() -> Float[np.ndarray, " parameters"]:
    """The same by formula and by 20,001 points in float64: with responsibilities `rho_k`,
    `w - E rho`, `-E rho (y - mu) / s^2` and `E rho (1/s - (y - mu)^2 / s^3)`.
    """
    logits, means, scales = (np.asarray(leaf, np.float64) for leaf in MODEL)
    next_logits, next_means, next_scales = (np.asarray(leaf, np.float64) for leaf in NEXT)
    y = np.linspace(-12, 15, 20_001)[:, None]
    law = _density(y, REWARD + DISCOUNT * next_means, DISCOUNT * next_scales)
    law = law @ (_softmax(next_logits))
    weights = _softmax(logits)
    rho = weights * _density(y, means, scales)
    rho *= (law / law.sum() / rho.sum(1))[:, None]
    of_scales = rho * (1 / scales - (y - means) ** 2 / scales**3)
    parts = [weights - rho.sum(0), -(rho * (y - means)).sum(0) / scales**2, of_scales.sum(0)]
    return np.concatenate(parts)


def sampled_gradient(key: Key, repeats: int = 4096, num_samples: int = 8) -> dict[str, float]:
    """Is the sampled gradient unbiased? Its mean over many draws against the exact one.

    `z` is the largest distance in standard errors over the nine parameters; `relative_error` the
    distance of the two vectors, over the exact one's length.
    """
    critic = MixtureOfGaussians(components=3, estimator="sampled", num_samples=num_samples)
    gradients = jax.vmap(lambda key: mixture_gradient(critic, key))(jax.random.split(key, repeats))
    drawn, exact = np.asarray(gradients, np.float64), exact_mixture_gradient()
    gaps = drawn.mean(0) - exact
    return {
        "z": float(np.max(np.abs(gaps) / (drawn.std(0, ddof=1) / math.sqrt(repeats)))),
        "relative_error": float(np.linalg.norm(gaps) / np.linalg.norm(exact)),
    }


def quadrature_gradient(num_nodes: int) -> dict[str, float]:
    """The quadrature estimator's distance from the exact gradient, over the latter's length."""
    critic = MixtureOfGaussians(components=3, estimator="quadrature", num_nodes=num_nodes)
    exact = exact_mixture_gradient()
    gap = np.asarray(mixture_gradient(critic, jax.random.key(0)), np.float64) - exact
    return {"relative_error": float(np.linalg.norm(gap) / np.linalg.norm(exact))}


def backed_up_distances(reward: float, discount: float) -> dict[str, float]:
    """What `z -> reward + discount * z` leaves of the distance between two laws, as a share.

    W1 shrinks by the discount, which makes the Bellman operator a contraction. The divergence that
    the cross-entropy descends does not shrink at all: no change of unit alters a density ratio. On
    an even grid, in float64.
    """
    before, after = (_divergence_and_w1(a, b) for a, b in ((0.0, 1.0), (reward, discount)))
    return {name: after[name] / before[name] for name in before}


def _divergence_and_w1(shift: float, factor: float) -> dict[str, float]:
    """KL(NEXT || MODEL) in nats and W1 between them, where returns are `shift + factor * z`."""
    points, step = np.linspace(-15.0, 15.0, 60_001, retstep=True)
    points, step = shift + factor * points[:, None], factor * step
    densities, below = [], []
    for law in (NEXT, MODEL):
        logits, means, scales = (np.asarray(leaf, np.float64) for leaf in law)
        weights, means, scales = _softmax(logits), shift + factor * means, factor * scales
        densities.append(_density(points, means, scales) @ weights)
        below.append(ndtr((points - means) / scales) @ weights)
    divergence = densities[0] @ np.log(densities[0] / densities[1]) * step
    return {"kl": float(divergence), "w1": float(np.sum(np.abs(below[0] - below[1])) * step)}


def bernoulli_bias(truth: float, model: float, samples: int) -> dict[str, float]:
    """Expected sample gradient minus true gradient, by summing over all samples, for a coin.

    With `f` heads in a sample, the likelihood loss has gradient `(model - f) / (model (1 -
    model))`, linear in `f`: no bias. W1 is `|model - f|`: its gradient is a sign, and biased.
    """
    heads = np.arange(samples + 1)
    ways = np.array([math.comb(samples, count) for count in heads])
    odds = ways * truth**heads * (1 - truth) ** (samples - heads)
    scale = model * (1 - model)
    likelihood = odds @ ((model - heads / samples) / scale) - (model - truth) / scale
    wasserstein = odds @ np.sign(model - heads / samples) - np.sign(model - truth)
    return {"likelihood": float(likelihood), "wasserstein": float(wasserstein)}


def scale_equivariance(factor: float) -> dict[str, float]:
    """Rewards, model and target times `factor`: the loss must grow by log factor, no more."""

    critic = MixtureOfGaussians(components=3, estimator="quadrature", num_nodes=16)

    @jax.jit
    def loss(scale: Float[Array, ""]) -> Float[Array, ""]:
        model, following = (
            Mixture(law.logits[None], scale * law.means[None], scale * law.scales[None])
            for law in (MODEL, NEXT)
        )
        following = jax.tree.map(lambda leaf: leaf[None], following)
        target = Target(scale * jnp.full(1, REWARD), jnp.full(1, DISCOUNT), following)
        return critic.loss(model, target, jax.random.key(0))[0]

    one, scaled = (float(loss(jnp.asarray(scale, jnp.float32))) for scale in (1.0, factor))
    return {"error": abs(scaled - one - math.log(factor))}


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def _density(y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * ((y - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
