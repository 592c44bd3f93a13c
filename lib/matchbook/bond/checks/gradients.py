"""The paper's gradients (Eq. 13, 15, G_Reg) against derivatives of the divergences themselves."""

import jax
import jax.numpy as jnp
import numpy as np

from matchbook.bond import best_of_n
from matchbook.bond import gradients as formulas
from matchbook.bond.checks.checked import Checked, largest, random_spaces
from matchbook.divergences import forward_kl

ANSWERS, FEATURES, N = 8, 4, 4
DRAWN = 15  # cases in the curves


def gradients(seed: int, cases: int) -> Checked:
    """Log-linear policies over eight answers, at random parameters, with N = 4.

    Numbers: largest difference from automatic differentiation (``.error``) and from central
    differences (``.finite_difference_error``). Curves: central difference against formula, all
    components of the first cases, sorted by the former.
    """
    probs, rewards = random_spaces(seed, cases, ANSWERS)
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((cases, ANSWERS, FEATURES))
    parameters = rng.standard_normal((cases, FEATURES))
    arguments = map(jnp.asarray, (features, parameters, np.log(probs), rewards))
    numbers, curves = {}, {}
    for name, found in jax.jit(jax.vmap(_one_case))(*arguments).items():
        difference, derivative, formula = map(np.asarray, found)
        numbers[f"gradient.{name}.error"] = largest(derivative - formula)
        numbers[f"gradient.{name}.finite_difference_error"] = largest(difference - formula)
        curves[f"gradient.{name}"] = _sorted(difference[:DRAWN].ravel(), formula[:DRAWN].ravel())
        if name == "printed":
            numbers["gradient.printed.plus_grad_kl"] = largest(derivative + formula)
    return Checked(numbers, curves)


def _one_case(features, parameters, reference, rewards):
    """For each term: central differences, the automatic derivative, the paper's formula."""
    target = best_of_n.log_pmf(reference, rewards, N)

    def policy(parameters):
        return jax.nn.log_softmax(features @ parameters)

    def forward(parameters):
        return forward_kl(target, policy(parameters))

    def backward(parameters):
        return forward_kl(policy(parameters), target)

    def to_anchor(parameters):
        return forward_kl(policy(parameters), reference)

    now, scores = policy(parameters), jax.jacobian(policy)(parameters)
    terms = {
        "forward": (forward, formulas.forward(scores, reference, rewards, N)),
        "backward": (backward, formulas.backward(scores, now, reference, rewards, N)),
        "regularisation": (to_anchor, formulas.regularisation(scores, now, reference)),
        "printed": (to_anchor, formulas.printed_regularisation(scores, now, reference)),
    }
    return {
        name: (_slopes(divergence, parameters), jax.grad(divergence)(parameters), formula)
        for name, (divergence, formula) in terms.items()
    }


def _sorted(x, y):
    order = np.argsort(x)
    return x[order], y[order]


def _slopes(function, parameters, step=1e-5):
    bumps = step * jnp.eye(parameters.size)
    ahead, behind = (jax.vmap(function)(parameters[None] + s * bumps) for s in (1, -1))
    return (ahead - behind) / (2 * step)
