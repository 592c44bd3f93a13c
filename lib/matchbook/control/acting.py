"""Acting as a source of batches: what `lab.fit` calls between two dispatches of the learner.

Unusual: the policy that acts is one dispatch old, so that the environments move while the device
still learns; and yet every number is a function of the seed. It acts in a thread, since JAX runs
what one thread asks of a device in order: asked from here, actions would wait for the learner.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from matchbook.control.environments.interface import Environments, check_finite
from matchbook.control.learning import Learner, State
from matchbook.control.replay import Replay
from matchbook.control.transitions import NStep, Transition


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How data and updates interleave; the defaults are those of the authors' release.

    Arguments:
        batch_size: transitions in an update.
        n_step: steps in a full transition.
        discount: for each step.
        samples_per_insert: how often each transition is drawn on average; 32 at batch size 256 is
            one update every 8 transitions.
        min_replay: transitions before the first update; they do not count for the ratio.
        max_replay: transitions kept.
        updates_per_dispatch: updates that run in one compiled call.
    """

    batch_size: int = 256
    n_step: int = 5
    discount: int | float = 0.99
    samples_per_insert: int | float = 32
    min_replay: int = 1_000
    max_replay: int = 1_000_000
    updates_per_dispatch: int = 8

    def __post_init__(self) -> None:
        if self.samples_per_insert <= 0 or min(self.batch_size, self.updates_per_dispatch) < 1:
            raise ValueError(f"sizes and ratios must be above 0, got {self}")
        if not 1 <= self.min_replay <= self.max_replay:
            raise ValueError(
                f"min_replay must be from 1 to max_replay, got {self.min_replay} and "
                f"{self.max_replay}"
            )

    def dispatches(self, environment_steps: int) -> int:
        """Calls of the source that this many environment steps pay for, rounded down."""
        paid = max(0, environment_steps - self.min_replay) * self.samples_per_insert
        return int(paid / (self.batch_size * self.updates_per_dispatch))


class Experience:
    """Acts, keeps replay, and gives batches `[updates, batch, ...]`: `batches` for `lab.fit`.

    The ratio is exact: before each call's samples are drawn, transitions are inserted until
    `samples <= samples_per_insert * (inserted - min_replay)`, counting from the beginning, and no
    environment moves beyond that. Replay, episodes and noise are part of `get_state`.

    Arguments:
        learner: whose target policy acts.
        environments: several, stepped together.
        schedule: sizes and ratio.
        seed: of the environments, the noise and the sampling.

    Raises:
        NonFiniteStep: when called, for an action, observation or reward.
    """

    def __init__(
        self, learner: Learner, environments: Environments, schedule: Schedule, *, seed: int
    ):
        self._learner, self._environments, self._schedule = learner, environments, schedule
        sizes = environments.observation_size, environments.action_size
        if sizes != (learner.observation_size, learner.action_size):
            raise ValueError(
                f"observations and actions of the environments have sizes {sizes}, those of the "
                f"learner {(learner.observation_size, learner.action_size)}: make them agree"
            )
        self.replay = Replay(schedule.max_replay, *sizes)
        self._n_step = NStep(
            environments.num, *sizes, n=schedule.n_step, discount=schedule.discount
        )
        self._random = np.random.default_rng(seed)
        self._observations = environments.reset(seed)
        self._sweeps = self._samples = 0
        self._policy: Any = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="acting")

    @property
    def environment_steps(self) -> int:
        """Steps taken so far, in all environments together."""
        return self._sweeps * self._environments.num

    def __call__(self, state: State) -> Transition:
        """Act until the samples are paid for, with the policy of the call before; then draw them.

        `state` may still be in the making; the first call acts with its own policy.
        """
        newest = _copy(state.target.policy)  # before the caller donates the state
        policy = newest if self._policy is None else self._policy
        batches = self._thread.submit(self._collect, policy).result()
        self._policy = newest
        return batches

    def get_state(self) -> dict[str, Any]:
        """A plain tree: replay, growing transitions, environments, noise, policy, counters."""
        policy = [] if self._policy is None else jax.tree.leaves(self._policy)
        noise: Any = self._random.bit_generator.state
        return {
            "replay": self.replay.get_state(),
            "n_step": self._n_step.get_state(),
            "environments": self._environments.get_state(),
            "random": noise,
            "policy": [np.asarray(leaf) for leaf in policy],
            "counters": [self._sweeps, self._samples],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` gave. Where an environment cannot go back, its growing
        transitions are dropped, and it warns.
        """
        self.replay.set_state(state["replay"])
        self._n_step.set_state(state["n_step"])
        self._observations, continued = self._environments.set_state(state["environments"])
        self._n_step.forget(~continued)
        self._random.bit_generator.state = state["random"]
        structure = jax.tree.structure(jax.eval_shape(lambda: self._learner.init(0)).target.policy)
        policy = state["policy"]
        self._policy = jax.tree.unflatten(structure, policy) if policy else None
        self._sweeps, self._samples = state["counters"]

    def _collect(self, policy: Any) -> Transition:
        schedule = self._schedule
        shape = schedule.updates_per_dispatch, schedule.batch_size
        self._samples += shape[0] * shape[1]
        needed = schedule.min_replay + self._samples / schedule.samples_per_insert
        policy = on_cpu(policy)
        while self.replay.inserted < needed:
            self._sweep(policy)
        return self.replay.sample(self._random, shape)

    def _sweep(self, policy: Any) -> None:
        """One step of every environment."""
        shape = self._environments.num, self._environments.action_size
        noise = self._random.standard_normal(shape, np.float32)
        actions = np.asarray(act(self._learner, policy, self._observations, noise))
        self._sweeps += 1
        check_finite(self._sweeps, action=actions)
        steps = self._environments.step(actions)
        check_finite(self._sweeps, reward=steps.rewards, observation=steps.next_observations)
        check_finite(self._sweeps, observation=steps.observations)
        self.replay.add(self._n_step.add(self._observations, actions, steps))
        self._observations = steps.observations


@partial(jax.jit, static_argnums=0)
def act(
    learner: Learner,
    policy: Any,
    observations: Float[Array, "num observation"],
    noise: Float[Array, "num dims"],
) -> Float[Array, "num dims"]:
    """`learner.act`, compiled once for equal learners."""
    return learner.act(policy, observations, noise)


def on_cpu(policy: Any) -> Any:
    """The parameters where actions are computed: on the host, beside an accelerator too."""
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to leave the host out: acting waits for the learner
        host = None
    return jax.device_put(policy, host)


@jax.jit
def _copy(policy: Any) -> Any:
    return jax.tree.map(jnp.copy, policy)
