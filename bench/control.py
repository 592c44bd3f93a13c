"""DMPO at the paper's sizes, its environments, and both at once."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.measure import Row, seconds
from matchbook import lab
from matchbook.control import DMPO, Agent, Schedule, Transition, load_environments, networks
from matchbook.control.environments.suite import split_task
from matchbook.critics import Head, Mixture, MixtureOfGaussians, Target, apply_head

BATCH, OBSERVATION, ACTION = 256, 24, 6  # walker's
PAPER = MixtureOfGaussians(estimator="sampled", num_samples=128)
TASK, NUM, STEPS = "cartpole-swingup", 16, 20_000
Returns = Callable[..., Any]


class Plain(MixtureOfGaussians):
    """The 128-sample loss as public JAX code has it, drawn the way of mixture distributions in
    libraries: a normal number for every component, and a one-hot choice among them.
    """

    def sample(self, distribution: Mixture, key: jax.Array, n: int) -> jax.Array:
        choice_key, normal_key = jax.random.split(key)
        logits, means, scales = distribution
        chosen = jax.random.categorical(choice_key, logits, shape=(n, *logits.shape[:-1]))
        drawn = means[None] + scales[None] * jax.random.normal(normal_key, (n, *means.shape))
        return jnp.sum(drawn * jax.nn.one_hot(chosen, means.shape[-1]), axis=-1)


class Gathered(MixtureOfGaussians):
    """The same with one normal number a draw, whose component is looked up."""

    def sample(self, distribution: Mixture, key: jax.Array, n: int) -> jax.Array:
        choice_key, normal_key = jax.random.split(key)
        logits, means, scales = distribution
        chosen = jax.random.categorical(choice_key, logits, shape=(n, *logits.shape[:-1]))[
            ..., None
        ]
        means, scales = (jnp.broadcast_to(leaf[None], (n, *leaf.shape)) for leaf in (means, scales))
        picked = (jnp.take_along_axis(leaf, chosen, axis=-1)[..., 0] for leaf in (means, scales))
        mean, scale = picked
        return mean + scale * jax.random.normal(normal_key, mean.shape)


def tiled(critic: Any, network: Any, observations: jax.Array, actions: jax.Array) -> Any:
    """`networks.returns` on rows of observation beside action, one for each pair."""
    shape = (*actions.shape[:-1], observations.shape[-1])
    rows = jnp.concatenate([jnp.broadcast_to(observations, shape), jnp.clip(actions, -1, 1)], -1)
    return apply_head(critic, network.head, networks.apply_torso(network.torso, rows))


def transitions() -> Transition:
    """Random ones: speed does not depend on what they say."""
    random = np.random.default_rng(0)
    shapes = (BATCH, OBSERVATION), (BATCH, ACTION), (BATCH,), (BATCH,), (BATCH, OBSERVATION)
    drawn = Transition(*(random.normal(size=shape) for shape in shapes))
    drawn = drawn._replace(discounts=np.full(BATCH, 0.99**5))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn)


def learner(critic: MixtureOfGaussians) -> DMPO:
    """At the sizes of the paper's code, whose defaults these are."""
    return DMPO(observation_size=OBSERVATION, action_size=ACTION, critic=critic)


def steps_per_second(critic: MixtureOfGaussians, returns: Returns = networks.returns) -> float:
    """Updates of policy, critic and duals."""
    one = learner(critic)
    state, batch = one.init(0), transitions()
    if returns is tiled:
        state = state._replace(key=jax.random.key(0))  # JAX's default generator
    ours, networks.returns = networks.returns, returns
    try:
        step = jax.jit(one.step)
        return 1 / seconds(lambda: step(state, batch))
    finally:
        networks.returns = ours


@cache
def law_of_targets() -> tuple[Any, Transition, Target]:
    """A critic network with random heads, means of the order of 1, widths of 1 to 2; its target."""
    one, batch = learner(PAPER), transitions()
    network = one.init(0).online.critic
    random = np.random.default_rng(1)
    kernel = np.repeat([0.1, 0.1, 200.0], 5) * random.normal(size=network.head.kernel.shape)
    bias = random.normal(size=network.head.bias.shape) + np.repeat([0, 0, 1000.0], 5)
    network = network._replace(
        head=Head(jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))
    )
    actions = jnp.asarray(random.normal(size=(20, BATCH, ACTION)), jnp.float32)
    following = networks.returns(PAPER, network, batch.next_observations, actions)
    return network, batch, Target(batch.rewards, batch.discounts, following)


def gradient(critic: MixtureOfGaussians, seed: int = 0) -> np.ndarray:
    """Of the critic's loss in all its network's parameters, as one vector."""
    network, batch, target = law_of_targets()

    @jax.jit
    def slope(network: Any, key: jax.Array) -> Any:
        def loss(network: Any) -> jax.Array:
            law = networks.returns(critic, network, batch.observations, batch.actions)
            return jnp.mean(critic.loss(law, target, key))

        return jax.grad(loss)(network)

    found = jax.tree.leaves(slope(network, jax.random.key(seed)))
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in found])


def accuracy(critic: MixtureOfGaussians) -> float:
    """One over the relative error of the gradient, against 96 nodes on every component."""
    exact = gradient(replace(PAPER, estimator="quadrature", num_nodes=96))
    return float(np.linalg.norm(exact) / np.linalg.norm(gradient(critic) - exact))


def own_loop() -> float:
    """Steps a second of dm-control's own loop: one environment, random actions."""
    from dm_control import suite

    environment = suite.load(*split_task(TASK))
    spec, random = environment.action_spec(), np.random.default_rng(0)
    step, start = environment.reset(), perf_counter()
    for _ in range(STEPS // 4):
        action = random.uniform(spec.minimum, spec.maximum, spec.shape)
        step = environment.reset() if step.last() else environment.step(action)
    return STEPS / 4 / (perf_counter() - start)


def together() -> float:
    """Steps a second of our environments, random actions."""
    environments, random = load_environments(TASK, NUM), np.random.default_rng(0)
    environments.reset(0)
    start = perf_counter()
    for _ in range(STEPS // NUM):
        environments.step(random.uniform(-1, 1, (NUM, environments.action_size)))
    return STEPS / (perf_counter() - start)


def small(schedule: Schedule) -> Agent:
    """An agent of the size that laptops train."""
    environments = load_environments(TASK, NUM)
    sizes = environments.observation_size, environments.action_size
    one = DMPO(
        observation_size=sizes[0],
        action_size=sizes[1],
        critic=MixtureOfGaussians(num_nodes=4),
        policy_sizes=(128, 128),
        critic_sizes=(128, 128),
    )
    return Agent(one, environments, schedule, seed=0)


def acting(agent: Agent, dispatches: int) -> float:
    """Environment steps a second where nothing is learned: acting, n-step sums, replay, draws."""
    state = agent.init()
    agent.experience(state)
    before, start = agent.experience.environment_steps, perf_counter()
    for _ in range(dispatches):
        agent.experience(state)
    return (agent.experience.environment_steps - before) / (perf_counter() - start)


def learning(agent: Agent, dispatches: int) -> float:
    """Environment steps a second that the updates alone could use up."""
    state = agent.init()
    batches, step = agent.experience(state), jax.jit(agent.step)
    schedule = agent.schedule
    paid = schedule.updates_per_dispatch * schedule.batch_size / schedule.samples_per_insert
    return paid / seconds(lambda: step(state, batches), repeats=max(5, dispatches // 4))


def both(agent: Agent, dispatches: int) -> float:
    """Environment steps a second of the whole agent."""
    fit = partial(lab.fit, agent.step, batches=agent.experience, log_every=dispatches)
    fit(agent.init(), num_steps=1)
    before, start = agent.experience.environment_steps, perf_counter()
    fit(agent.init(), num_steps=dispatches)
    return (agent.experience.environment_steps - before) / (perf_counter() - start)


def end_to_end(dispatches: int = 100) -> Row:
    """The whole agent against the slower of its halves."""
    schedule = Schedule(samples_per_insert=32, min_replay=1000)
    halves = [half(small(schedule), dispatches) for half in (acting, learning)]
    return Row(
        work="acting and learning, 128-128",
        unit="env steps/s",
        ours=both(small(schedule), dispatches),
        reference=min(halves),
        against="the slower half alone",
        bar=0.8,
    )


def rows() -> Iterator[Row]:
    """Yield the table's lines, measuring as they are asked for."""
    ours = MixtureOfGaussians()
    work, unit = "DMPO update 256 x 20, 512-512-256", "updates/s"
    rate, error = steps_per_second(ours), "1/gradient error"
    for peer, name, bar in ((Plain, "128 samples, plain JAX", 4.0), (Gathered, "looked up", None)):
        reference = steps_per_second(peer(estimator="sampled"), tiled)
        yield Row(work=work, unit=unit, ours=rate, reference=reference, against=name, bar=bar)
    sampled = steps_per_second(PAPER)
    yield Row(work=work, unit=unit, ours=rate, reference=sampled, against="ours with 128 samples")
    reference = accuracy(PAPER)
    for critic in (ours, replace(PAPER, estimator="quadrature", num_nodes=8)):
        name = f"{critic.estimator} {critic.num_nodes}"
        yield Row(work=name, unit=error, ours=accuracy(critic), reference=reference,
                  against="128 samples", bar=1.0)  # fmt: skip
    yield Row(work=f"{TASK} x {NUM}", unit="env steps/s", ours=together(), reference=own_loop(),
              against="dm-control's own loop")  # fmt: skip
    yield end_to_end()
