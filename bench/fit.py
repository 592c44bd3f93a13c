"""What `lab.fit` costs and saves: scanned chunks against one dispatch a step."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bench.measure import Row, seconds
from matchbook import lab

STEPS, CHUNK, WIDTH = 2000, 100, 64


def step(state: jax.Array, batch: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Least squares by gradient descent: so little work that dispatch is what is measured."""
    loss, gradient = jax.value_and_grad(lambda w: jnp.mean((batch @ w - 1.0) ** 2))(state)
    return state - 0.01 * gradient, {"loss": loss}


def batches() -> Iterator[np.ndarray]:
    """The same endless stream of batches at each call."""
    generator = np.random.default_rng(0)
    while True:
        yield generator.standard_normal((8, WIDTH), dtype=np.float32)


def loop() -> jax.Array:
    """A dispatch and a host read of the loss at each step, as a plain training script does."""
    state, stream, jitted = jnp.zeros(WIDTH), batches(), jax.jit(step)
    for _ in range(STEPS):
        state, metrics = jitted(state, next(stream))
        float(metrics["loss"])
    return state


def scanned() -> jax.Array:
    """The same steps through `lab.fit`."""
    state, _ = lab.fit(step, jnp.zeros(WIDTH), batches(), num_steps=STEPS, log_every=CHUNK)
    return state


def rows() -> Iterator[Row]:
    """Yield the table's lines, measuring as they are asked for."""
    yield Row(
        work="fit, tiny step",
        unit="steps/s",
        ours=STEPS / seconds(scanned, repeats=3),
        reference=STEPS / seconds(loop, repeats=3),
        against="one dispatch and read a step",
    )
