"""A critic network alone, learning the value of a fixed policy whose value is a formula.

The critic's half of DMPO (Shahriari et al. 2022) on the linear-quadratic problem: same networks,
targets, clipping and losses, but data never depends on what was learned. Unusual: the scale of
rewards is the batch, so that all scales share one program; transitions are drawn in the step.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from matchbook.control import networks, normalization
from matchbook.control.closed_forms import LinearQuadratic
from matchbook.control.learning import Metrics, Networks, State, clipped_adam, copy_every, descend
from matchbook.control.transitions import Transition
from matchbook.critics import Critic

MAX_ACTION = 4.0  # five standard deviations and more of what the policy does


@dataclass(frozen=True, kw_only=True)
class PolicyEvaluation:
    """Learns `Q` of `u = -gain x + N(0, std^2)`, where `gain` is the problem's best one.

    Arguments:
        critic: the return distributions that are learned.
        problem: the linear system and its costs.
        std: the policy's randomness, in the problem's unit.
        sizes: widths of the critic's layers.
        batch_size: fresh transitions from x ~ N(0, 1) in every step.
        num_actions: drawn at every next state.
        learning_rate: Adam's.
        target_period: steps between copies into the target network.
        max_gradient_norm: as in `DMPO`.
        normalization_rate: as in `DMPO`.
    """

    critic: Critic
    problem: LinearQuadratic
    std: float = 0.3
    sizes: tuple[int, ...] = (64, 64)
    batch_size: int = 64
    num_actions: int = 10
    learning_rate: float = 1e-3
    target_period: int = 25
    max_gradient_norm: float = 40.0
    normalization_rate: float | None = None

    def init(self, seed: int) -> State:
        """A fresh network, with an equal copy as target."""
        network_key, key = jax.random.split(jax.random.key(seed, impl="rbg"))
        network = networks.init_critic_network(self.critic, network_key, 1, 1, self.sizes)
        if self.normalization_rate is not None:
            network = network._replace(unit=normalization.no_unit())
        both, adam = Networks((), network), clipped_adam(self.learning_rate, self.max_gradient_norm)
        optimizer = Networks((), adam.init(network))
        return State(both, both, (), optimizer, (), key, jnp.zeros((), jnp.int32))

    def step(self, state: State, reward_scale: Float[Array, ""]) -> tuple[State, Metrics]:
        """One update on fresh transitions, whose rewards are multiplied."""
        draw_key, act_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        batch = self._transitions(draw_key, reward_scale)
        shape = (self.num_actions, self.batch_size, 1)
        actions = self._act(batch.next_observations[None], jax.random.normal(act_key, shape))
        following = networks.returns(
            self.critic, state.target.critic, batch.next_observations, actions
        )
        values, rate = self.critic.mean(following), self.normalization_rate
        state = normalization.keep_up(self.critic, state, batch, values, rate)
        units = state.target.critic.unit, state.online.critic.unit
        target = normalization.bellman(batch, following, *units)

        def loss(network: networks.CriticNetwork) -> Array:
            now = networks.returns(self.critic, network, batch.observations, batch.actions)
            return jnp.mean(self.critic.loss(now, target, loss_key))

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

    def value_error(self, state: State, reward_scale: float) -> dict[str, float]:
        """`value_error`: root mean square distance from the exact values, over their standard
        deviation, for x from -1.5 to 1.5 and actions up to `std` off the policy's mean.
        """
        x, offset = (leaf.ravel() for leaf in np.meshgrid(np.linspace(-1.5, 1.5, 21), [-1, 0, 1]))
        u = -self.problem.gain * x + self.std * offset
        exact = reward_scale * self.problem.policy_action_value(self.problem.gain, self.std, x, u)
        columns = (jnp.asarray(c[:, None], jnp.float32) for c in (x, u / MAX_ACTION))
        network = state.online.critic
        means = self.critic.mean(networks.returns(self.critic, network, *columns))
        ours = np.asarray(normalization.in_units_of_return(means, network.unit), np.float64)
        return {"value_error": float(np.sqrt(np.mean((ours - exact) ** 2)) / np.std(exact))}

    def _act(self, x: Array, noise: Array) -> Array:
        """Actions in [-1, 1]."""
        return (self.std * noise - self.problem.gain * x) / MAX_ACTION

    def _transitions(self, key: Array, reward_scale: Float[Array, ""]) -> Transition:
        p, shape = self.problem, (3, self.batch_size, 1)
        x, push, noise = jax.random.normal(key, shape, jnp.float32)
        actions = self._act(x, push)
        u = MAX_ACTION * actions
        rewards = -reward_scale * (p.q * jnp.square(x) + p.r * jnp.square(u))
        following = p.a * x + p.b * u + p.noise * noise
        return Transition(
            x, actions, rewards[:, 0], jnp.full(self.batch_size, p.discount), following
        )
