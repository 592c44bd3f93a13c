"""What the learners share: their state, clipped Adam, target networks, updates in a row.

Unusual: gradients of policy and critic are clipped separately, each before its own Adam, as the
paper's release does; its JAX successor has the setting and never applies it.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from matchbook.control.transitions import Transition

Metrics = dict[str, Array]


class Networks(NamedTuple):
    """Parameters of policy and critic, or anything else there is one of for each."""

    policy: Any
    critic: Any


class State(NamedTuple):
    """What a learner carries from step to step; `duals` is empty where it has none."""

    online: Networks
    target: Networks
    duals: Any
    optimizer: Networks
    duals_optimizer: Any
    key: Array
    step: Array


@runtime_checkable
class Learner(Protocol):
    """What `acting` and `agent` need of an algorithm: hashable settings with pure methods."""

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        ...

    @property
    def action_size(self) -> int:
        """Numbers in an action."""
        ...

    def init(self, seed: int) -> State:
        """A fresh state."""
        ...

    def step(self, state: State, batch: Transition) -> tuple[State, Metrics]:
        """One update on a batch of transitions."""
        ...

    def act(
        self,
        policy: Any,
        observations: Float[Array, "batch observation"],
        noise: Float[Array, "batch dims"],
    ) -> Float[Array, "batch dims"]:
        """Actions for standard normal noise; without noise, those to be judged by."""
        ...


def clipped_adam(learning_rate: int | float, max_norm: int | float) -> optax.GradientTransformation:
    """Adam on gradients whose global norm is at most `max_norm`."""
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(learning_rate))


def descend(
    optimizer: optax.GradientTransformation, gradient: Any, state: Any, parameters: Any
) -> tuple[Any, Any]:
    """One optimizer step: the new parameters and the optimizer's new state."""
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state


def goes_on(batch: Transition) -> Float[Array, " batch"]:
    """0 where the episode has ended, which no action can change; 1 elsewhere."""
    return (batch.discounts > 0).astype(jnp.float32)


def copy_every[T](period: int, step: Int[Array, ""], online: T, target: T) -> T:
    """`online` after every `period`-th step, `target` otherwise."""
    return jax.tree.map(lambda new, old: jnp.where(step % period == 0, new, old), online, target)


def update(learner: Learner, state: State, batches: Transition) -> tuple[State, Metrics]:
    """Several updates in one dispatch; metrics are means over them.

    Arguments:
        learner: whose `step` is run.
        state: donated or not, as the caller's jit says.
        batches: leaves `[updates, batch, ...]`.
    """
    state, metrics = jax.lax.scan(learner.step, state, batches)
    return state, jax.tree.map(jnp.mean, metrics)
