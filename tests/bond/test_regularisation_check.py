"""The check of G_Reg's sign must itself be right: against finite differences of the exact KL."""

import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from matchbook.bond import log_linear, regularisation_check


def test_the_true_gradient_and_both_signs():
    space, rng = log_linear.random_space(0, 3, 8, 3), np.random.default_rng(1)
    weights, anchor = rng.standard_normal((2, 3))
    base, features = (np.asarray(part, float) for part in space[:2])

    def divergence(w):
        policy, other = (log_softmax(base + features @ v, axis=1) for v in (w, anchor))
        return np.mean(np.sum(np.exp(policy) * (policy - other), axis=1))

    steps = 1e-5 * np.eye(3)
    wanted = [(divergence(weights + d) - divergence(weights - d)) / 2e-5 for d in steps]
    given = (jnp.asarray(v, jnp.float32) for v in (weights, anchor))
    np.testing.assert_allclose(
        regularisation_check.true_gradient(space, *given), wanted, rtol=1e-3, atol=1e-5
    )
    numbers, curves = regularisation_check.check(space, seed=0, batches=4000)
    assert abs(numbers["slope.pull"] - 1) < 0.1
    assert abs(numbers["slope.push"] + 1) < 0.1
    assert max(numbers["z.pull"], numbers["z.push"]) < 4
    assert np.linalg.norm(curves["true"][1] / curves["pull.error"][1]) > 20
