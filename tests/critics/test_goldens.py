"""C51's projection and loss, and the quantile losses, against rlax (goldens/critics/make.py)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.critics import Atoms, Categorical, Target
from matchbook.critics.categorical import l2_project
from matchbook.critics.quantile import quantile_huber

GOLDENS = Path(__file__).parents[1] / "goldens" / "critics"


def load(name):
    with np.load(GOLDENS / f"{name}.npz") as arrays:
        return {key: jnp.asarray(arrays[key]) for key in arrays}


def test_projection():
    golden = load("projection")
    ours = l2_project(golden["values"], golden["probabilities"], golden["atoms"])
    np.testing.assert_allclose(ours, golden["projected"], atol=2e-6)


def test_categorical_loss_and_gradient():
    golden = load("categorical")
    critic = Categorical(num_atoms=9, v_min=-4.0, v_max=4.0)
    target = Target(golden["rewards"], golden["discounts"], Atoms(golden["next_logits"][None]))

    def loss(logits):
        return critic.loss(Atoms(logits), target, jax.random.key(0))

    np.testing.assert_allclose(loss(golden["logits"]), golden["loss"], rtol=2e-6)
    gradient = jax.grad(lambda logits: jnp.sum(loss(logits)))(golden["logits"])
    np.testing.assert_allclose(gradient, golden["gradient"], atol=2e-6)


@pytest.mark.parametrize(("name", "huber"), [("plain", 0.0), ("narrow", 0.3), ("unit", 1.0)])
def test_quantile_loss_and_gradient(name, huber):
    golden = load("quantile")

    def loss(values):
        return quantile_huber(values, golden["targets"], huber)

    np.testing.assert_allclose(loss(golden["values"]), golden[f"{name}_loss"], rtol=2e-6)
    gradient = jax.grad(lambda values: jnp.sum(loss(values)))(golden["values"])
    np.testing.assert_allclose(gradient, golden[f"{name}_gradient"], atol=2e-6)
