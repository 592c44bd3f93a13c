"""dm-control's pendulum under a fixed, noisy controller: transitions, and values by simulation.

A task of the suite that Shahriari et al. 2022 train on, with nobody learning to act: what a critic
says can be held against the truth. Unusual: MuJoCo moves a whole batch of pendulums at once, so
that a value is the mean of many simulated returns; and rewards can be made noisier, which changes
the law of the return and not its mean.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from matchbook.control.policy_evaluation import FixedPolicyBatch
from matchbook.control.transitions import Transition

DISCOUNT = 0.95  # for each decision, of which 20 are the horizon: two seconds
REPEAT = 5  # physics steps of 0.02 s in a decision
STD = 0.5  # of the controller's actions, before they are clipped to [-1, 1]
BLOCK = 100  # batches that are drawn at once, which is cheaper than one by one
UPRIGHT = np.cos(np.deg2rad(8))  # rewarded above, as in dm-control
HALF_WEIGHT = 0.5 * 9.81  # of the bob on its arm of half a metre: torque when horizontal, in N m

Noise = Literal["none", "even", "uneven"]


class Trajectories(NamedTuple):
    """`observations` are `[time + 1, num, 3]`, `actions` `[time, num, 1]`, `rewards` `[time, num]`;
    `states` are MuJoCo's at the observations.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    states: np.ndarray


class Values(NamedTuple):
    """Held-out states and actions, `[num, _]`, with the mean of simulated returns, `[num]`, and
    the variance of that mean.
    """

    observations: np.ndarray
    actions: np.ndarray
    returns: np.ndarray
    variances: np.ndarray


def controller(observations: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 1"]:
    """Mean actions in [-1, 1]: pump energy until the top is near, then hold on by a spring."""
    cosine, sine, speed = np.moveaxis(observations, -1, 0)
    angle = np.arctan2(sine, cosine)
    missing = HALF_WEIGHT * (1 - cosine) - 0.125 * speed**2  # energy, in J
    pump = np.clip(2 * missing, -1, 1) * np.where(speed < 0, -1, 1)
    hold = np.clip(-8 * angle - 2 * speed, -1, 1)
    return np.where(np.abs(angle) < 0.5, hold, pump)[..., None]


def act(
    observations: Float[np.ndarray, "... 3"], noise: Float[np.ndarray, "... 1"]
) -> Float[np.ndarray, "... 1"]:
    """The controller's noisy actions for standard normal noise, in [-1, 1]."""
    return np.clip(controller(observations) + STD * noise, -1, 1)


def simulate(
    states: Float[np.ndarray, "num 3"],
    steps: int,
    rng: np.random.Generator,
    first: Float[np.ndarray, "num 1"] | None = None,
) -> Trajectories:
    """Let the controller act for a number of decisions, from MuJoCo's states (time, angle, speed).

    Arguments:
        states: where to begin.
        steps: decisions.
        rng: of the controller's noise.
        first: actions of the first decision, in place of the controller's.
    """
    seen, done, paid, passed = [_observe(states)], [], [], [states]
    for step in range(steps):
        actions = act(seen[-1], rng.standard_normal((len(states), 1)))
        actions = first if first is not None and step == 0 else actions
        path = _physics(states, np.repeat(actions[:, None], REPEAT, axis=1))
        states = path[:, -1]
        paid.append(np.mean(np.cos(path[..., 1]) >= UPRIGHT, axis=1))
        done.append(actions)
        seen.append(_observe(states))
        passed.append(states)
    return Trajectories(*(np.stack(rows) for rows in (seen, done, paid, passed)))


def record(num: int, steps: int, seed: int) -> dict[str, np.ndarray]:
    """Transitions of `num` episodes of `steps` decisions; leaves `[num * steps, ...]`, float32."""
    rng = np.random.default_rng((seed, 0))
    seen, done, paid, _ = simulate(_starts(num, rng), steps, rng)
    discounts = np.full(paid.shape, DISCOUNT)
    leaves = Transition(seen[:-1], done, paid, discounts, seen[1:])
    flat = [np.asarray(leaf.reshape(-1, *leaf.shape[2:]), np.float32) for leaf in leaves]
    return dict(zip(Transition._fields, flat))


def judge(num: int, rollouts: int, horizon: int, seed: int) -> dict[str, np.ndarray]:
    """`Values` of the controller: `num` states and actions on its own way, each followed up by
    `rollouts` simulations of `horizon` decisions (after 100 of them 0.6 % of a return is missing).
    """
    rng = np.random.default_rng((seed, 1))
    way = simulate(_starts(64, rng), 200, rng)
    picks = rng.integers(200, size=num), rng.integers(64, size=num)
    states, actions = way.states[picks], way.actions[picks]
    after = simulate(
        np.repeat(states, rollouts, axis=0), horizon, rng, np.repeat(actions, rollouts, axis=0)
    )
    discounts = DISCOUNT ** np.arange(horizon)
    returns = (discounts @ after.rewards).reshape(num, rollouts)
    spread = returns.var(axis=1, ddof=1) / rollouts
    return Values(_observe(states), actions, returns.mean(axis=1), spread)._asdict()


def value_error(ours: Float[np.ndarray, " num"], values: Values) -> float:
    """Root mean square distance from the true values over their standard deviation; what the
    simulated means themselves are off by is taken out, so that exact values score 0 on average.
    """
    noise = np.mean(values.variances)
    square = np.mean((np.asarray(ours, np.float64) - values.returns) ** 2) - noise
    return float(np.sqrt(max(square, 0.0) / (np.var(values.returns) - noise)))


def probe(
    features: Float[np.ndarray, "num width"],
    data: Transition,
    held_out: Float[np.ndarray, "more width"],
    steps: int = 200,
) -> Float[np.ndarray, " more"]:
    """Values at held-out features, by linear regression of the returns that were seen.

    Arguments:
        features: of each transition.
        data: as `record` gives it; decisions with less than 60 after them are left out.
        held_out: features of other states and actions.
        steps: decisions in an episode.
    """
    returns = data.rewards.reshape(steps, -1).astype(np.float64)
    for step in reversed(range(steps - 1)):
        returns[step] += DISCOUNT * returns[step + 1]
    width = features.shape[-1]
    columns = np.asarray(features, np.float64).reshape(steps, -1, width)[:-60].reshape(-1, width)
    target, centre = returns[:-60].ravel(), columns.mean(axis=0)
    offsets, level = columns - centre, target.mean()
    square = offsets.T @ offsets
    ridge = 1e-6 * np.trace(square) / width * np.eye(width)
    slope = np.linalg.solve(square + ridge, offsets.T @ (target - level))
    return (np.asarray(held_out, np.float64) - centre) @ slope + level


def noise_std(data: Transition, noise: Noise, std: float) -> Float[np.ndarray, " num"]:
    """Standard deviation of the noise on each reward; its root mean square is `std`.

    Arguments:
        data: leaves `[num, ...]`.
        noise: "none"; "even", alike everywhere; "uneven", only where the action is above 0.
        std: for all but "none".
    """
    hit = np.ones(len(data.rewards)) if noise == "even" else data.actions[:, 0] > 0
    return std * (noise != "none") * hit / np.sqrt(np.mean(np.square(hit)))


def noisy(data: Transition, noise: Noise, std: float, seed: int) -> Transition:
    """The same transitions with Gaussian noise on their rewards, as `noise_std` has it."""
    drawn = np.random.default_rng((seed, 2)).standard_normal(len(data.rewards))
    rewards = data.rewards + noise_std(data, noise, std) * drawn
    return data._replace(rewards=rewards.astype(np.float32))


def batches(
    data: Transition,
    seed: int,
    *,
    weights: Float[np.ndarray, " num"] | None = None,
    batch_size: int = 64,
    num_actions: int = 4,
) -> Iterator[FixedPolicyBatch]:
    """Uniform draws from the transitions, with fresh actions of the controller at next states, and
    weights of the transitions in the loss (1 by default).
    """
    weights = np.ones(len(data.rewards)) if weights is None else weights
    rng = np.random.default_rng((seed, 3))
    while True:
        rows = rng.integers(len(data.rewards), size=(BLOCK, batch_size))
        drawn = Transition(*(leaf[rows] for leaf in data))
        noise = rng.standard_normal((BLOCK, num_actions, batch_size, 1))
        actions = act(drawn.next_observations[:, None], noise).astype(np.float32)
        for i, chosen in enumerate(weights[rows].astype(np.float32)):
            yield FixedPolicyBatch(Transition(*(leaf[i] for leaf in drawn)), actions[i], chosen)


def _starts(num: int, rng: np.random.Generator) -> Float[np.ndarray, "num 3"]:
    """At rest, at any angle: as the task begins."""
    angles = rng.uniform(-np.pi, np.pi, num)
    return np.stack([np.zeros(num), angles, np.zeros(num)], axis=1)


def _observe(states: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Cosine and sine of the angle, 0 is upright, and speed: dm-control's own numbers."""
    return np.stack([np.cos(states[..., 1]), np.sin(states[..., 1]), states[..., 2]], axis=-1)


def _physics(
    states: Float[np.ndarray, "num 3"], controls: Float[np.ndarray, "num steps 1"]
) -> Float[np.ndarray, "num steps 3"]:
    from mujoco import rollout

    model, data = _model()
    found, _ = rollout.rollout(model, data, initial_state=states, control=controls)
    return found


@cache
def _model() -> tuple[Any, Any]:
    from dm_control import suite

    physics: Any = suite.load("pendulum", "swingup").physics
    return physics.model.ptr, physics.data.ptr
