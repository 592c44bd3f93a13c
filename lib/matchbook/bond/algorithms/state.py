"""The state that all algorithms share, and the one update that all of them make.

An algorithm draws answers, has them scored, and gives `advance` a loss; what it returns is the pure
``step(state, prompts) -> state, metrics`` that `lab.fit` runs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from matchbook.bond.algorithms.anchors import AnchorUpdate, float32
from matchbook.bond.policies import Prompts, Weights

Metrics = dict[str, Array]
Loss = Callable[[Weights], tuple[Float[Array, ""], Metrics]]


class PolicyState(NamedTuple):
    """What a step changes.

    weights: the policy's.
    anchor: weights of the policy that it is compared with, float32; at the start, the reference.
    optimizer: of optax.
    key: the next step's randomness.
    step: updates done.
    """

    weights: Weights
    anchor: Weights
    optimizer: Any
    key: Key[Array, ""]
    step: Int[Array, ""]


Step = Callable[[Any, Prompts], tuple[Any, Metrics]]


def policy_state(
    weights: Weights, optimizer: optax.GradientTransformation, seed: int
) -> PolicyState:
    """The state before the first update: policy, anchor and reference are one."""
    return PolicyState(
        weights=weights,
        anchor=float32(weights),
        optimizer=optimizer.init(weights),
        key=jax.random.key(seed),
        step=jnp.int32(0),
    )


def advance(
    state: PolicyState,
    key: Key[Array, ""],
    optimizer: optax.GradientTransformation,
    anchor_update: AnchorUpdate,
    loss: Loss,
) -> tuple[PolicyState, Metrics]:
    """One gradient step on `loss`, then the anchor's, with the weights after the update.

    Adds ``loss`` and ``gradient_norm`` to the metrics. The loss of a policy gradient is one whose
    *gradient* is meant; its value says little.
    """
    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.weights)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.weights)
    weights: Any = optax.apply_updates(state.weights, updates)
    step = state.step + 1
    anchor = anchor_update(state.anchor, weights, step)
    metrics = metrics | {"loss": value, "gradient_norm": optax.tree.norm(gradients)}
    return PolicyState(weights, anchor, optimizer_state, key, step), metrics


def adam(
    learning_rate: int | float | Float[Array, ""], warmup_steps: int = 100
) -> optax.GradientTransformation:
    """Adam with a linear warm-up and then a constant rate: what BOND, section 6 states.

    The paper's rate is 3e-6, for Gemma 2B and 7B. Called again with equal arguments it is the same
    optimizer, so nothing compiles twice. A rate that is an array may be traced: `arguments.bound`.
    """
    if isinstance(learning_rate, jax.Array):
        return _adam(learning_rate, warmup_steps)
    return _same_adam(learning_rate, warmup_steps)


def _adam(
    learning_rate: int | float | Float[Array, ""], warmup_steps: int
) -> optax.GradientTransformation:
    schedule = optax.linear_schedule(
        init_value=learning_rate / (warmup_steps + 1),
        end_value=learning_rate,
        transition_steps=warmup_steps,
    )
    inner = optax.adam(schedule if warmup_steps else learning_rate)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            return inner.update(updates, state, params, **extra)

    return optax.GradientTransformation(inner.init, update)


_same_adam = functools.lru_cache(_adam)
