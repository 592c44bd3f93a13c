"""A critic network alone, learning the values of a policy that does not change.

The critic's half of DMPO (Shahriari et al. 2022): same networks, targets, clipping and losses, but
data never depends on what was learned. Unusual: each transition has a weight; and a second head
can read features that it has no part in, which tells features from the loss that taught them.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from matchbook.control import networks, normalization
from matchbook.control.learning import Metrics, Networks, State, clipped_adam, copy_every, descend
from matchbook.control.transitions import Transition
from matchbook.critics import Critic, Head, Target, apply_head, init_head


class FixedPolicyBatch(NamedTuple):
    """A batch of transitions, the policy's `next_actions` `[actions, batch, dims]` in [-1, 1], and
    the `weights` `[batch]` of the transitions in the loss.
    """

    transitions: Transition
    next_actions: Any
    weights: Any


@dataclass(frozen=True, kw_only=True)
class PolicyEvaluation:
    """Learns the values of a fixed policy by the critic's own loss.

    Arguments:
        critic: the return distributions that are learned.
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        sizes: widths of the network's layers.
        learning_rate: Adam's.
        target_period: steps between copies into the target network.
        max_gradient_norm: as in `DMPO`.
        units: as in `DMPO`.
    """

    critic: Critic
    observation_size: int
    action_size: int
    sizes: tuple[int, ...] = (64, 64)
    learning_rate: float = 1e-3
    target_period: int = 25
    max_gradient_norm: float = 40.0
    units: normalization.ReturnUnits | None = None

    def init(self, seed: int) -> State:
        """A fresh network, with an equal copy as target."""
        network_key, key = jax.random.split(jax.random.key(seed, impl="rbg"))
        sizes = self.observation_size, self.action_size, self.sizes
        network = networks.init_critic_network(self.critic, network_key, *sizes)
        if self.units is not None:
            network = network._replace(unit=normalization.no_unit())
        both, adam = Networks((), network), clipped_adam(self.learning_rate, self.max_gradient_norm)
        optimizer = Networks((), adam.init(network))
        return State(both, both, (), optimizer, (), key, jnp.zeros((), jnp.int32))

    def step(self, state: State, experience: FixedPolicyBatch) -> tuple[State, Metrics]:
        """One update."""
        batch, next_actions, weights = experience
        behind = state.target.critic
        following = networks.returns(self.critic, behind, batch.next_observations, next_actions)
        values = self.critic.mean(following)
        state = normalization.keep_up(self.critic, state, batch, values, self.units)
        units = state.target.critic.unit, state.online.critic.unit
        target = normalization.bellman(batch, following, *units)
        loss_key = jax.random.fold_in(state.key, state.step)

        def loss(network: networks.CriticNetwork) -> Array:
            now = networks.returns(self.critic, network, batch.observations, batch.actions)
            return jnp.mean(weights * self.critic.loss(now, target, loss_key))

        value, gradient = jax.value_and_grad(loss)(state.online.critic)
        adam = clipped_adam(self.learning_rate, self.max_gradient_norm)
        network, optimizer = descend(adam, gradient, state.optimizer.critic, state.online.critic)
        step, online = state.step + 1, Networks((), network)
        new = state._replace(
            online=online,
            target=copy_every(self.target_period, step, online, state.target),
            optimizer=Networks((), optimizer),
            step=step,
        )
        return new, {"critic_loss": value}

    def values(
        self,
        state: State,
        observations: Float[np.ndarray, "num observation"],
        actions: Float[np.ndarray, "num dims"],
    ) -> Float[np.ndarray, " num"]:
        """The online critic's values, in the task's own unit."""
        return np.asarray(self._values(state, observations, actions), np.float64)

    @partial(jax.jit, static_argnums=0)
    def _values(self, state: State, *columns: Float[Array, "num _"]) -> Float[Array, " num"]:
        network, inputs = state.online.critic, (c.astype(jnp.float32) for c in columns)
        means = self.critic.mean(networks.returns(self.critic, network, *inputs))
        return normalization.in_units_of_return(means, network.unit)


class Reading(NamedTuple):
    """A second head and its copy in the targets, with Adam's state; all on another's features."""

    head: Head
    target: Head
    optimizer: Any


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Another critic's head on the features of `learner`, which never learn from it.

    Arguments:
        learner: whose torso is read; without `units`.
        critic: of the second head, which learns by its own loss and bootstraps from itself.
    """

    learner: PolicyEvaluation
    critic: Critic

    def init(self, seed: int) -> tuple[State, Reading]:
        """The learner's state, and a fresh head."""
        head = init_head(self.critic, jax.random.key(seed, impl="rbg"), self.learner.sizes[-1])
        return self.learner.init(seed), Reading(head, head, self._adam.init(head))

    def step(
        self, state: tuple[State, Reading], experience: FixedPolicyBatch
    ) -> tuple[tuple[State, Reading], Metrics]:
        """One update of both, on the same transitions and next actions."""
        learned, reading = state
        batch, next_actions, weights = experience
        torso, behind = learned.online.critic.torso, learned.target.critic.torso
        features = networks.apply_torso(torso, batch.observations, batch.actions)
        ahead = networks.apply_torso(behind, batch.next_observations, next_actions)
        following = apply_head(self.critic, reading.target, ahead)
        target = Target(batch.rewards, batch.discounts, following)
        key = jax.random.fold_in(learned.key, learned.step)

        def loss(head: Head) -> Array:
            now = apply_head(self.critic, head, jax.lax.stop_gradient(features))
            return jnp.mean(weights * self.critic.loss(now, target, key))

        gradient = jax.grad(loss)(reading.head)
        head, optimizer = descend(self._adam, gradient, reading.optimizer, reading.head)
        learned, metrics = self.learner.step(learned, experience)
        copied = copy_every(self.learner.target_period, learned.step, head, reading.target)
        return (learned, Reading(head, copied, optimizer)), metrics

    def values(
        self,
        state: tuple[State, Reading],
        observations: Float[np.ndarray, "num observation"],
        actions: Float[np.ndarray, "num dims"],
    ) -> Float[np.ndarray, " num"]:
        """What the second head says."""
        found = self._values(state[1], features(state[0], observations, actions))
        return np.asarray(found, np.float64)

    @partial(jax.jit, static_argnums=0)
    def _values(self, reading: Reading, features: Array) -> Float[Array, " num"]:
        return self.critic.mean(apply_head(self.critic, reading.head, features))

    @property
    def _adam(self) -> Any:
        return clipped_adam(self.learner.learning_rate, self.learner.max_gradient_norm)


@jax.jit
def features(
    state: State,
    observations: Float[Array, "num observation"],
    actions: Float[Array, "num dims"],
) -> Float[Array, "num width"]:
    """The online torso's last layer."""
    columns = (column.astype(jnp.float32) for column in (observations, actions))
    return networks.apply_torso(state.online.critic.torso, *columns)
