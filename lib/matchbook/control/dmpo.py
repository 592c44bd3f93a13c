"""MPO with any critic: MoG-MPO (Shahriari et al. 2022), DMPO (C51), QR, and MPO itself (scalar).

Unusual against the public code: the target critic is evaluated once, on the next states only, for
both losses; gradients are clipped as configured; and a state in which the episode has ended has
value 0 for every action, so that nothing is preferred there.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from matchbook.control import mpo, networks, normalization
from matchbook.control.learning import (
    Metrics,
    Networks,
    State,
    clipped_adam,
    copy_every,
    descend,
    goes_on,
)
from matchbook.control.mpo import TrustRegion
from matchbook.control.networks import GaussianPolicy
from matchbook.control.transitions import Transition
from matchbook.critics import Critic, Target
from matchbook.critics.interface import Key


class Drawn(NamedTuple):
    """Actions at the next states, for both losses.

    Arguments:
        actions: `[actions, batch, dims]`.
        law: the target policy's, which they were drawn from.
        returns: the target critic's distributions, leaves `[actions, batch, ...]`, in its own unit.
        values: their means, `[actions, batch]`.
    """

    actions: Array
    law: mpo.Gaussian
    returns: Any
    values: Array


@dataclass(frozen=True, kw_only=True)
class DMPO:
    """Settings of the learner; the defaults are those of the authors' release.

    Arguments:
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        critic: the return distributions that are learned; `Scalar()` makes it MPO.
        region: how far one update may go.
        policy_sizes: widths of the policy's layers.
        critic_sizes: widths of the critic's layers.
        init_std: of a fresh policy, where actions are in [-1, 1].
        num_actions: drawn at every next state, for both losses.
        learning_rate: Adam's, for policy and critic.
        dual_learning_rate: Adam's, for temperatures and multipliers.
        max_gradient_norm: of policy and critic, each.
        target_policy_period: updates between hard copies of the policy into the one that acts.
        target_critic_period: the same for the critic that is bootstrapped from.
        units: returns get a unit of their own that follows the targets (`normalization`), and the
            scale of rewards does not matter. None: no unit, as in the paper.
    """

    observation_size: int
    action_size: int
    critic: Critic
    region: TrustRegion = field(default_factory=TrustRegion)
    policy_sizes: tuple[int, ...] = (256, 256, 256)
    critic_sizes: tuple[int, ...] = (512, 512, 256)
    init_std: int | float = 0.7
    num_actions: int = 20
    learning_rate: int | float = 1e-4
    dual_learning_rate: int | float = 1e-2
    max_gradient_norm: int | float = 40.0
    target_policy_period: int = 100
    target_critic_period: int = 100
    units: normalization.ReturnUnits | None = None

    def __post_init__(self) -> None:
        if self.units is not None:
            self.units.check(self.critic)

    def init(self, seed: int) -> State:
        """Fresh networks, with equal copies as targets."""
        # XLA's own generator: cheaper to compile and to draw from than threefry.
        return self._init(jax.random.key(seed, impl="rbg"))

    @partial(jax.jit, static_argnums=0)
    def _init(self, key: Key) -> State:
        policy_key, critic_key, key = jax.random.split(key, 3)
        sizes = self.observation_size, self.action_size
        online = Networks(
            networks.init_gaussian_policy(policy_key, *sizes, self.policy_sizes),
            networks.init_critic_network(self.critic, critic_key, *sizes, self.critic_sizes),
        )
        if self.units is not None:
            unit = normalization.no_unit()
            online = online._replace(critic=online.critic._replace(unit=unit))
        duals, adam = mpo.init_duals(self.action_size), self._optimizer
        return State(
            online=online,
            target=online,
            duals=duals,
            optimizer=Networks(adam.init(online.policy), adam.init(online.critic)),
            duals_optimizer=self._duals_optimizer.init(duals),
            key=key,
            step=jnp.zeros((), jnp.int32),
        )

    def step(self, state: State, batch: Transition) -> tuple[State, Metrics]:
        """One update of policy, critic and duals.

        Actions are drawn from the target policy at the next states: the E-step and the M-step are
        taken there, and their target-critic distributions make the Bellman target.

        Arguments:
            state: as `init` gives it.
            batch: leaves `[batch, ...]`.
        """
        action_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        drawn = self._draw(state.target, batch.next_observations, action_key)
        state = normalization.keep_up(self.critic, state, batch, drawn.values, self.units)
        behind, unit = state.target.critic.unit, state.online.critic.unit
        target = normalization.bellman(batch, drawn.returns, behind, unit)
        losses = partial(self._losses, batch=batch, drawn=drawn, target=target, key=loss_key)
        gradients, metrics = jax.grad(losses, (0, 1), has_aux=True)(state.online, state.duals)
        values = goes_on(batch)[None] * normalization.in_units_of_return(drawn.values, behind)
        return self._descend(state, *gradients), metrics | {"value": jnp.mean(values)}

    def _draw(
        self, target: Networks, observations: Float[Array, "batch observation"], key: Key
    ) -> Drawn:
        """Actions of the target policy, and what the target critic says of them."""
        law = self.policy(target.policy, observations)
        shape = (self.num_actions, *law.mean.shape)
        actions = law.mean[None] + law.std[None] * jax.random.normal(key, shape, jnp.float32)
        returns = networks.returns(self.critic, target.critic, observations, actions)
        return Drawn(actions, law, returns, self.critic.mean(returns))

    def _losses(
        self,
        online: Networks,
        duals: mpo.Duals,
        *,
        batch: Transition,
        drawn: Drawn,
        target: Target,
        key: Key,
    ) -> tuple[Float[Array, ""], Metrics]:
        """MPO's on the next states, the critic's on the first ones; their sum, and what to watch.

        Each part's gradient reaches its own parameters only.
        """
        law = self.policy(online.policy, batch.next_observations)
        q_values = drawn.values * goes_on(batch)[None]
        policy_loss, watched = mpo.loss(self.region, duals, q_values, drawn.actions, drawn.law, law)
        returns = networks.returns(self.critic, online.critic, batch.observations, batch.actions)
        critic_loss = jnp.mean(self.critic.loss(returns, target, key))
        losses = {"policy_loss": policy_loss, "critic_loss": critic_loss}
        return policy_loss + critic_loss, watched | losses

    def _descend(self, state: State, gradient: Networks, dual_gradient: mpo.Duals) -> State:
        """An optimizer step for each of the three, and targets that follow when it is time."""
        adam, optimizer, online = self._optimizer, state.optimizer, state.online
        policy, policy_optimizer = descend(adam, gradient.policy, optimizer.policy, online.policy)
        critic, critic_optimizer = descend(adam, gradient.critic, optimizer.critic, online.critic)
        duals, duals_optimizer = descend(
            self._duals_optimizer, dual_gradient, state.duals_optimizer, state.duals
        )
        step = state.step + 1
        target = Networks(
            copy_every(self.target_policy_period, step, policy, state.target.policy),
            copy_every(self.target_critic_period, step, critic, state.target.critic),
        )
        online, optimizer = Networks(policy, critic), Networks(policy_optimizer, critic_optimizer)
        duals = mpo.project(duals)
        return State(online, target, duals, optimizer, duals_optimizer, state.key, step)

    def policy(
        self, policy: GaussianPolicy, observations: Float[Array, "batch observation"]
    ) -> mpo.Gaussian:
        """The policy's law."""
        return networks.gaussian(policy, observations, self.init_std)

    def act(
        self,
        policy: Any,
        observations: Float[Array, "batch observation"],
        noise: Float[Array, "batch dims"],
    ) -> Float[Array, "batch dims"]:
        """The mean, plus as much noise as the policy's standard deviation says."""
        law = self.policy(policy, observations)
        return law.mean + law.std * noise

    @property
    def _optimizer(self) -> Any:
        return clipped_adam(self.learning_rate, self.max_gradient_norm)

    @property
    def _duals_optimizer(self) -> Any:
        return optax.adam(self.dual_learning_rate)
