"""D4PG (Barth-Maron et al. 2018) with any critic: a deterministic policy climbs the critic's mean.

The mixture's mean `sum_k w_k mu_k` is differentiable, so the paper's critic serves here as it is.
Defaults are those of D4PG in Acme; scalar it is DDPG with n-step returns.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from matchbook.control import networks, normalization
from matchbook.control.learning import (
    Metrics,
    Networks,
    State,
    clipped_adam,
    copy_every,
    descend,
    goes_on,
)
from matchbook.control.transitions import Transition
from matchbook.critics import Critic, Target
from matchbook.critics.interface import Key


@dataclass(frozen=True, kw_only=True)
class D4PG:
    """Settings of the learner.

    Arguments:
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        critic: the return distributions that are learned.
        policy_sizes: widths of the policy's layers.
        critic_sizes: widths of the critic's layers.
        exploration: standard deviation of the noise added to actions, which are in [-1, 1].
        learning_rate: Adam's, for policy and critic.
        max_gradient_norm: of policy and critic, each.
        max_action_gradient: largest length of the value's gradient in an action.
        target_period: updates between hard copies of both networks into their targets.
        units: returns get a unit of their own that follows the targets (`normalization`), and the
            scale of rewards does not matter. None: no unit, as in Acme.
    """

    observation_size: int
    action_size: int
    critic: Critic
    policy_sizes: tuple[int, ...] = (300, 200)
    critic_sizes: tuple[int, ...] = (400, 300)
    exploration: int | float = 0.3
    learning_rate: int | float = 1e-4
    max_gradient_norm: int | float = 40.0
    max_action_gradient: int | float = 1.0
    target_period: int = 100
    units: normalization.ReturnUnits | None = None

    def __post_init__(self) -> None:
        if self.units is not None:
            self.units.check(self.critic)

    def init(self, seed: int) -> State:
        """Fresh networks, with equal copies as targets."""
        return self._init(jax.random.key(seed, impl="rbg"))

    @partial(jax.jit, static_argnums=0)
    def _init(self, key: Key) -> State:
        policy_key, critic_key, key = jax.random.split(key, 3)
        sizes = self.observation_size, self.action_size
        online = Networks(
            networks.init_deterministic_policy(policy_key, *sizes, self.policy_sizes),
            networks.init_critic_network(self.critic, critic_key, *sizes, self.critic_sizes),
        )
        if self.units is not None:
            unit = normalization.no_unit()
            online = online._replace(critic=online.critic._replace(unit=unit))
        adam = self._optimizer
        optimizer = Networks(adam.init(online.policy), adam.init(online.critic))
        return State(online, online, (), optimizer, (), key, jnp.zeros((), jnp.int32))

    def step(self, state: State, batch: Transition) -> tuple[State, Metrics]:
        """One update of policy and critic: the policy at the next states, as Acme does, the critic
        at the first ones.

        Arguments:
            state: as `init` gives it.
            batch: leaves `[batch, ...]`.
        """
        following = self._following(state.target, batch.next_observations)
        values = self.critic.mean(following)
        state = normalization.keep_up(self.critic, state, batch, values, self.units)
        target = normalization.bellman(
            batch, following, state.target.critic.unit, state.online.critic.unit
        )
        key = jax.random.fold_in(state.key, state.step)
        loss, critic = jax.value_and_grad(self._critic_loss)(
            state.online.critic, batch, target, key
        )
        policy, watched = self._policy_gradient(state.online, batch)
        return self._descend(state, Networks(policy, critic)), watched | {"critic_loss": loss}

    def _following(self, target: Networks, observations: Float[Array, "batch observation"]) -> Any:
        """The target critic's distributions of the target policy's actions, `[1, batch, ...]`."""
        actions = networks.deterministic(target.policy, observations)
        return networks.returns(self.critic, target.critic, observations, actions[None])

    def _critic_loss(
        self, critic: Any, batch: Transition, target: Target, key: Key
    ) -> Float[Array, ""]:
        returns = networks.returns(self.critic, critic, batch.observations, batch.actions)
        return jnp.mean(self.critic.loss(returns, target, key))

    def _policy_gradient(self, online: Networks, batch: Transition) -> tuple[Any, Metrics]:
        """Of minus the value of the policy's actions at the next states that are not the end.

        Each state's pull on its action is at most `max_action_gradient` long.
        """
        counted = goes_on(batch)

        def act(policy: Any) -> Array:
            return networks.deterministic(policy, batch.next_observations)

        def value(actions: Array) -> tuple[Array, Array]:
            laws = networks.returns(self.critic, online.critic, batch.next_observations, actions)
            values = self.critic.mean(laws)  # in the critic's unit
            return jnp.sum(values * counted), values

        actions, pull_back = jax.vjp(act, online.policy)
        uphill, values = jax.grad(value, has_aux=True)(actions)
        length = jnp.linalg.norm(uphill, axis=-1, keepdims=True)
        clipped = uphill * jnp.minimum(1.0, self.max_action_gradient / jnp.maximum(length, 1e-12))
        (gradient,) = pull_back(-clipped / len(batch.rewards))
        values = counted * normalization.in_units_of_return(values, online.critic.unit)
        return gradient, {"value": jnp.mean(values), "action_gradient": jnp.mean(length)}

    def _descend(self, state: State, gradient: Networks) -> State:
        """An optimizer step for each, and targets that follow when it is time."""
        adam, optimizer, online = self._optimizer, state.optimizer, state.online
        policy, policy_optimizer = descend(adam, gradient.policy, optimizer.policy, online.policy)
        critic, critic_optimizer = descend(adam, gradient.critic, optimizer.critic, online.critic)
        step, online = state.step + 1, Networks(policy, critic)
        return state._replace(
            online=online,
            target=copy_every(self.target_period, step, online, state.target),
            optimizer=Networks(policy_optimizer, critic_optimizer),
            step=step,
        )

    def act(
        self,
        policy: Any,
        observations: Float[Array, "batch observation"],
        noise: Float[Array, "batch dims"],
    ) -> Float[Array, "batch dims"]:
        """The policy's action, with exploration noise of a fixed size."""
        return networks.deterministic(policy, observations) + self.exploration * noise

    @property
    def _optimizer(self) -> Any:
        return clipped_adam(self.learning_rate, self.max_gradient_norm)
