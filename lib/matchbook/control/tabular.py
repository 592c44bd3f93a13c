"""Any critic trained by its own loss on closed-form problems: one table row for each state.

The losses of Shahriari et al. 2022, without a network. Unusual: all problems and all reward scales
are learned side by side in one program; Adam acts on each number alone, so that they cannot meet.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from matchbook.critics.interface import Critic, Target
from matchbook.critics.laws import Distances, distances
from matchbook.critics.problems import Problem, all_problems, draw, start_states


class State(NamedTuple):
    """What training carries; `table` and its frozen copy `target`: `[scales, states, outputs]`."""

    table: Array
    target: Array
    optimizer: Any
    key: Array
    step: Array


@dataclass(frozen=True)
class TabularTD:
    """Temporal-difference learning of return distributions in a table.

    Arguments:
        critic: whose loss is minimised.
        problems: learned side by side.
        reward_scales: every problem is learned with its rewards times each of these.
        optimizer: one that acts on each number alone, as Adam does.
        batch_size: fresh transitions out of every state at every step.
        target_period: steps between hard copies of the table into the target.
    """

    critic: Critic
    problems: tuple[Problem, ...]
    reward_scales: tuple[float, ...]
    optimizer: optax.GradientTransformation
    batch_size: int
    target_period: int

    def init(self, seed: int) -> State:
        """Rows as the critic's head would give them for one-hot features, without the bias."""
        num_states = sum(len(problem.laws) for problem in self.problems)
        shape = (num_states, self.critic.num_outputs)
        # XLA's own generator compiles five times faster than threefry, and compiling is what costs.
        table_key, key = jax.random.split(jax.random.key(seed, impl="rbg"))
        rows = self.critic.initializer(table_key, shape, jnp.float32)
        table = jnp.broadcast_to(rows, (len(self.reward_scales), *shape))
        return State(table, table, self.optimizer.init(table), key, jnp.zeros((), jnp.int32))

    def step(self, state: State, batch: tuple[()]) -> tuple[State, dict[str, Array]]:
        """One optimizer step on the critic's loss, summed over scales and states, averaged over
        transitions. They are drawn here, the same at every scale: `batch` is empty.
        """
        draw_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        drawn = draw(self.problems, draw_key, self.batch_size)
        shape = (len(self.reward_scales), *drawn.rewards.shape)
        bootstrap = self.critic.distribution(state.target[:, drawn.next_states])
        target = Target(
            self._scales[:, None, None] * drawn.rewards[None],
            jnp.broadcast_to(drawn.discounts, shape),
            jax.tree.map(lambda leaf: leaf[None], bootstrap),  # there is one action
        )

        def loss(table: Array) -> Array:
            outputs = jnp.broadcast_to(table[:, :, None], (*shape, table.shape[-1]))
            losses = self.critic.loss(self.critic.distribution(outputs), target, loss_key)
            return jnp.sum(jnp.mean(losses, axis=-1))

        value, gradient = jax.value_and_grad(loss)(state.table)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            updates, optimizer = self.optimizer.update(gradient, state.optimizer)
        table = jnp.asarray(optax.apply_updates(state.table, updates))
        step = state.step + 1
        copied = jnp.where(step % self.target_period == 0, table, state.target)
        return State(table, copied, optimizer, state.key, step), {"loss": value}

    def watch(self, state: State) -> dict[str, float]:
        """`w1.problem.x<reward scale>` alone: for training curves."""
        return {name: value for name, value in self.evaluate(state).items() if name[:3] == "w1."}

    def evaluate(self, state: State) -> dict[str, float]:
        """What is known of each problem's first state, as `quantity.problem.x<reward scale>`.

        Quantities, in units of the reward scale: `mean` and `std` of the return, and `w1`, `crps`
        and `ks`, its distances from the true law (`laws.Distances`).
        """
        known = jax.device_get(self._known(state))
        names = [f"{p.name}.x{scale:g}" for scale in self.reward_scales for p in self.problems]
        return {
            f"{quantity}.{name}": float(value)
            for quantity in known
            for name, value in zip(names, known[quantity].ravel())
        }

    def cdfs(self, state: State) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """`cdf.problem` -> points of the law's grid, and the cdf there, at the first scale."""
        grids = [problem.laws[0].grid() for problem in self.problems]
        cdf = np.asarray(self._cdf(state, jnp.asarray(np.stack(grids, axis=-1), jnp.float32)))
        return {
            f"cdf.{problem.name}": (grids[i], np.round(cdf[:, i], 5))
            for i, problem in enumerate(self.problems)
        }

    def distribution(self, state: State) -> Any:
        """The critic's distributions at each problem's first state, `[scales, problems]`."""
        return self.critic.distribution(state.table[:, jnp.asarray(start_states(self.problems))])

    def distances(self, state: State) -> Distances:
        """How far each first state's distribution is from the truth; leaves `[scales, problems]`,
        in units of the reward scale.
        """
        distribution = self.distribution(state)
        laws = [problem.laws[0] for problem in self.problems]
        scales = self._scales[None, :, None]
        ours = self.critic.knots(distribution) / scales
        truth = jnp.asarray(np.stack([law.knots() for law in laws], axis=-1), jnp.float32)
        truth = jnp.broadcast_to(truth[:, None], (len(truth), *ours.shape[1:]))
        return distances(
            lambda values: self.critic.cdf(distribution, values * scales),
            lambda values: jnp.stack([law.cdf(values[..., i]) for i, law in enumerate(laws)], -1),
            jnp.concatenate([ours, truth]),
        )

    @partial(jax.jit, static_argnums=0)
    def _known(self, state: State) -> dict[str, Float[Array, "scales problems"]]:
        distribution, scales = self.distribution(state), self._scales[:, None]
        w1, crps, ks = self.distances(state)
        return {
            "mean": self.critic.mean(distribution) / scales,
            "std": jnp.sqrt(self.critic.variance(distribution)) / scales,
            "w1": w1,
            "crps": crps,
            "ks": ks,
        }

    @partial(jax.jit, static_argnums=0)
    def _cdf(
        self, state: State, points: Float[Array, "points problems"]
    ) -> Float[Array, "points problems"]:
        first = jax.tree.map(lambda leaf: leaf[0], self.distribution(state))
        return self.critic.cdf(first, points * self._scales[0])

    @property
    def _scales(self) -> Float[Array, " scales"]:
        return jnp.asarray(self.reward_scales, jnp.float32)


@cache
def on_closed_forms(
    critic: Critic,
    reward_scales: tuple[float, ...],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    target_period: int,
) -> TabularTD:
    """All five problems with Adam, whose learning rate falls to zero along a cosine.

    Equal settings give the same object, so that `lab.fit` compiles it once for all seeds.
    """
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    return TabularTD(critic, all_problems(), reward_scales, adam, batch_size, target_period)
