"""The exact part of `mog/01_return_distributions`: numbers for the ledger, curves for pictures.

Closed forms, fixed points and Monte-Carlo checks, for Shahriari et al. 2022. Unusual: nothing is
learned here, and only the Monte-Carlo parts depend on the seed.
"""

import jax
import jax.numpy as jnp
import numpy as np

from matchbook.control import closed_forms
from matchbook.critics import facts
from matchbook.critics.problems import Problem, all_problems, simulate
from matchbook.critics.projected import FixedPoint, fixed_point, midpoint_rewards

Numbers = dict[str, float]
Curves = dict[str, tuple[np.ndarray, np.ndarray]]

EPISODES, STEPS = 2048, 1200  # .99^1200 is 6e-6
# Reward scale, v_max and number of atoms of the C51 critics whose fixed point is tabulated.
SUPPORTS = (
    (0.01, 150, 51),
    (0.01, 150, 501),
    (1.0, 150, 51),
    (1.0, 150, 101),
    (1.0, 150, 501),
    (1.4, 150, 51),
    (1.4, 150, 501),
    (100.0, 150, 51),
    (1.0, 15_000, 51),
    (1.0, 15_000, 5001),
    (100.0, 15_000, 51),
)


def theory(seed: int) -> tuple[Numbers, Curves]:
    """Every number and curve below, under prefixed names."""
    keys = jax.random.split(jax.random.key(seed, impl="rbg"), 3)  # compiles fast
    numbers, curves = returns(keys[0])
    parts = {
        "head": facts.parameterisation(keys[1]),
        "targets": facts.targets_per_transition(),
        "suite": facts.control_suite(),
        "k1": facts.single_component(seed),
        "gradient": facts.sampled_gradient(keys[2]),
        "coin": facts.bernoulli_bias(truth=0.6, model=0.5, samples=4),
        "contraction": facts.backed_up_distances(reward=0.7, discount=0.9),
        "equivariance": facts.scale_equivariance(100.0),
        "estep": closed_forms.quadratic_e_step(2.0, 1.0, 0.1)._asdict(),
        "mstep": {f"eps{e}": closed_forms.max_mean_step(e, 0.5) for e in (0.01, 0.0025)},
        "lqr": linear_quadratic(),
    }
    parts |= {f"quadrature.n{n}": facts.quadrature_gradient(n) for n in (8, 16)}
    for prefix, part in parts.items():
        numbers |= {f"{prefix}.{name}": value for name, value in part.items()}
    c51_numbers, c51_curves = c51()
    return numbers | c51_numbers, curves | c51_curves


def returns(key: jax.Array) -> tuple[Numbers, Curves]:
    """Each problem's law and its distance from simulated returns (Kolmogorov and Smirnov's).

    `truth.<problem>`: the law's cdf over its window; `simulated.<problem>`: the share of episodes
    with a return not above the same points.
    """
    numbers: Numbers = {}
    curves: Curves = {}
    simulated = np.asarray(simulate(all_problems(), key, EPISODES, STEPS))
    for problem, drawn in zip(all_problems(), np.sort(simulated)):
        law, name = problem.laws[0], problem.name
        points = law.grid()
        places = np.concatenate([points, drawn]).astype(np.float32)
        exact = np.asarray(jax.jit(law.cdf)(jnp.asarray(places)), np.float64)
        counted = np.searchsorted(drawn, places, side="right") / EPISODES
        numbers |= {
            f"{name}.mean": law.mean,
            f"{name}.std": law.std,
            f"{name}.q90": float(law.quantile(np.array(0.9))),
            f"{name}.ks": float(np.abs(exact - counted).max()),
        }
        curves[f"truth.{name}"] = points, np.round(exact[: len(points)], 5)
        curves[f"simulated.{name}"] = points, np.round(counted[: len(points)], 5)
    return numbers | _leaves(all_problems()[1]), curves


def c51() -> tuple[Numbers, Curves]:
    """C51 on the Gaussian loop: its fixed points for `SUPPORTS`, and along a range of supports.

    Mean and std of `c51.*` have the rewards at 201 quantile midpoints, as in the table that the
    ledger holds; those of `c51_exact.*` have Gaussian rewards.
    """
    numbers: Numbers = {}
    curves: Curves = {}
    for scale, v_max, num_atoms in SUPPORTS:
        atoms = np.linspace(-v_max, v_max, num_atoms)
        tabulated = fixed_point(midpoint_rewards(scale, scale, 201), 0.99, atoms)
        exact = _on_the_loop(scale, v_max, num_atoms)
        at = f"x{scale:g}.v{v_max}.n{num_atoms}"
        for prefix, found in (("c51", tabulated), ("c51_exact", exact)):
            numbers |= {f"{prefix}.{at}.mean": found.mean, f"{prefix}.{at}.std": found.std}
        seen = exact.probabilities > 1e-5
        curves[f"c51.{at}"] = exact.atoms[seen], np.round(exact.probabilities[seen], 6)
    ranges = np.round(np.geomspace(60, 6000, 25), 1)
    for num_atoms in (51, 501):
        found = [_on_the_loop(1.0, v_max, num_atoms) for v_max in ranges]
        curves[f"support.mean.n{num_atoms}"] = ranges, np.array([point.mean for point in found])
        curves[f"support.std.n{num_atoms}"] = ranges, np.array([point.std for point in found])
    return numbers, curves


def linear_quadratic() -> Numbers:
    """A linear-quadratic problem: its solution, and how well it solves the Bellman equation.

    `residual` and `action_error` compare with the best action found numerically, at 9 states.
    """
    problem = closed_forms.LinearQuadratic(a=1.0, b=0.5, q=1.0, r=0.1, noise=0.3, discount=0.95)
    x = np.linspace(-2, 2, 9)
    low, high = np.full(9, -10.0), np.full(9, 10.0)
    for _ in range(100):  # thirds of an interval that holds the maximum of a concave function
        left, right = (2 * low + high) / 3, (low + 2 * high) / 3
        rises = problem.action_value(x, left) < problem.action_value(x, right)
        low, high = np.where(rises, left, low), np.where(rises, high, right)
    residuals = np.abs(problem.action_value(x, low) - problem.value(x))
    errors = np.abs(low + problem.gain * x)
    return {
        "cost": problem.cost,
        "gain": problem.gain,
        "residual": float(residuals.max()),
        "action_error": float(errors.max()),
    }


def _on_the_loop(scale: float, v_max: float, num_atoms: int) -> FixedPoint:
    atoms = np.linspace(-v_max, v_max, num_atoms)
    return fixed_point(np.array([scale]), 0.99, atoms, reward_std=scale)


def _leaves(fork: Problem) -> Numbers:
    """The fork's two loops, and the two modes that its start sees."""
    start, _, right = fork.laws
    mode = start.mean + float(np.sqrt(start.std**2 - (0.9 * right.std) ** 2))
    return {
        "fork.leaf_mean": right.mean,
        "fork.leaf_std": right.std,
        "fork.mode": mode,
        "fork.mode_std": 0.9 * right.std,
    }
