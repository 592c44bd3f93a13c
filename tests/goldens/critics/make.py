"""Golden values from rlax (DeepMind's reference ops); rlax is no dependency of Matchbook.

Run from the repository's root, with any Python 3.11 or newer:
    uv venv /tmp/rlax && uv pip install --python /tmp/rlax/bin/python rlax==0.1.9
    /tmp/rlax/bin/python tests/goldens/critics/make.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import rlax

HERE = Path(__file__).parent


def projection(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Mass off the atoms and beyond both ends, shared among the atoms."""
    atoms = np.linspace(-2.0, 3.0, 11, dtype=np.float32)
    values = rng.normal(0.5, 2.5, (16, 23)).astype(np.float32)
    values.sort(axis=-1)
    probabilities = rng.dirichlet(np.ones(23), 16).astype(np.float32)
    project = jax.vmap(rlax.categorical_l2_project, in_axes=(0, 0, None))
    return {
        "atoms": atoms,
        "values": values,
        "probabilities": probabilities,
        "projected": project(values, probabilities, atoms),
    }


def categorical(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The loss of C51 for given rewards, discounts and next distributions, and its gradient."""
    atoms = np.linspace(-4.0, 4.0, 9, dtype=np.float32)
    logits, following = rng.normal(size=(2, 16, 9)).astype(np.float32)
    rewards = rng.normal(size=16).astype(np.float32)
    discounts = rng.uniform(0, 1, 16).astype(np.float32)

    def loss(logits: jax.Array) -> jax.Array:
        learn = jax.vmap(rlax.categorical_td_learning, in_axes=(None, 0, 0, 0, None, 0))
        return learn(atoms, logits, rewards, discounts, atoms, following)

    return {
        "logits": logits,
        "next_logits": following,
        "rewards": rewards,
        "discounts": discounts,
        "loss": loss(logits),
        "gradient": jax.grad(lambda logits: jnp.sum(loss(logits)))(logits),
    }


def quantile(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Quantile losses, plain and Huber, and their gradients."""
    values = rng.normal(size=(16, 7)).astype(np.float32)
    targets = rng.normal(0.3, 1.5, (16, 12)).astype(np.float32)
    middles = (np.arange(7, dtype=np.float32) + 0.5) / 7
    golden = {"values": values, "targets": targets}
    for name, huber in {"plain": 0.0, "narrow": 0.3, "unit": 1.0}.items():

        def loss(values: jax.Array, huber: float = huber) -> jax.Array:
            one = jax.vmap(rlax.quantile_regression_loss, in_axes=(0, None, 0, None))
            return one(values, middles, targets, huber)

        golden[f"{name}_loss"] = loss(values)
        golden[f"{name}_gradient"] = jax.grad(lambda values: jnp.sum(loss(values)))(values)
    return golden


def e_step(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights and temperature loss of MPO's E-step, and the loss's gradient in the temperature."""
    q_values = rng.normal(0, 2, (20, 8)).astype(np.float32)  # actions, states
    golden = {"q_values": q_values, "temperatures": np.float32([0.3, 1.0, 5.0])}
    losses, gradients, weights = [], [], []
    for temperature in golden["temperatures"]:

        def loss(temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
            constraint = rlax.LagrangePenalty(temperature, jnp.float32(0.1))
            value, weight, _ = rlax.mpo_compute_weights_and_temperature_loss(
                jnp.asarray(q_values), constraint, lambda positive: positive
            )
            return jnp.mean(value), weight

        differentiate = jax.value_and_grad(loss, has_aux=True)
        (value, weight), gradient = differentiate(jnp.asarray(temperature))
        losses.append(value)
        gradients.append(gradient)
        weights.append(weight)
    return golden | {"losses": losses, "gradients": gradients, "weights": weights}


def main() -> None:
    for seed, make in enumerate((projection, categorical, quantile, e_step)):
        golden = make(np.random.default_rng(seed))
        arrays = {name: np.asarray(value) for name, value in golden.items()}
        np.savez_compressed(HERE / f"{make.__name__}.npz", **arrays)


if __name__ == "__main__":
    main()
