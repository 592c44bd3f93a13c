# %% [markdown]
# # Does a killed run end as if nothing had happened?
#
# A training loop of some hundred steps, slow enough to be killed if asked to.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke or laptop
pause: float = 0.0  # seconds before each batch; no result depends on it

# %%
import time

import jax
import jax.numpy as jnp
import numpy as np

from matchbook import lab

experiment = lab.Experiment("toy/fitting", version=1, profile=profile)


# %%
def draw():
    rng = np.random.default_rng(0)
    while True:
        time.sleep(pause)
        yield rng.normal(size=4).astype(np.float32)


def step(state, batch):
    weights, key = state
    key, noise = jax.random.split(key)
    gradient = weights - batch + 0.1 * jax.random.normal(noise, (4,))
    return (weights - 0.1 * gradient, key), {"loss": jnp.sum(gradient**2)}


def measure(arm: str, seed: int) -> lab.Measured:
    state = jnp.zeros(4), jax.random.key(seed)
    (weights, _), history = lab.fit(step, state, draw(), num_steps=300, checkpoint_every=20)
    return lab.Measured({"weight": float(weights[0])}, history)


# %%
runs = experiment.run(measure, arms=["only"], seeds=1)
