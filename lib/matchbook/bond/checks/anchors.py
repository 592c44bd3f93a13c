"""Moving anchors: rounds of Best-of-2 (Eq. 16) and the straight line that an EMA makes (Eq. 18)."""

import jax.numpy as jnp
import numpy as np

from matchbook.bond import best_of_n, continuous, speed
from matchbook.bond.checks.checked import MANY, Checked
from matchbook.divergences import forward_kl

PRINTED_STEPS = (0, 50, 100, 200, 300)


def iterated(rounds: int = 6) -> Checked:
    """KL to the reference after rounds of Best-of-2, done one by one on equally likely answers.

    Curves ``iterated.density.round`` hold the density of the policy over the reference's quantiles.
    """
    reference, order = jnp.full(MANY, -jnp.log(MANY)), jnp.arange(float(MANY))
    policy, kls, curves = reference, [0.0], {}
    shown = np.linspace(0, MANY - 1, 57).astype(int)
    for _ in range(rounds):
        policy = best_of_n.log_pmf(policy, order, 2)
        kls.append(float(forward_kl(policy, reference)))
        density = np.exp(policy - reference)[shown]
        curves[f"iterated.density.round{len(kls) - 1}"] = (shown + 0.5) / MANY, density
    done = np.arange(rounds + 1)
    law = np.asarray(continuous.kl_after_rounds(done))
    numbers = {f"iterated.kl.round{r}": kls[r] for r in range(1, 5)}
    numbers["iterated.error"] = float(np.abs(kls - law).max())
    numbers["iterated.last_round"] = kls[-1] - kls[-2]
    curves |= {"iterated.kl": (done, np.array(kls)), "iterated.law": (done, law)}
    return Checked(numbers, curves)


def ema_speed(answers: int, eta: float = 0.02, num_steps: int = 300) -> Checked:
    """KL under an EMA anchor, simulated and by the law; staircases of a hard anchor, 35 and 50."""
    steps = np.arange(num_steps + 1)
    simulated = np.asarray(speed.simulate(num_steps, eta, answers))
    law = np.asarray(speed.kl(steps, eta))
    numbers = {f"speed.law.t{t}": float(law[t]) for t in PRINTED_STEPS}
    numbers |= {f"speed.simulated.t{t}": float(simulated[t]) for t in PRINTED_STEPS}
    numbers["speed.error"] = float(np.abs(simulated - law).max())
    numbers["speed.slope"] = float(simulated[-1] - simulated[-51]) / 50
    numbers["speed.log_1_plus_eta"] = float(np.log1p(eta))
    numbers["speed.slope_ratio"] = numbers["speed.slope"] / numbers["speed.log_1_plus_eta"]
    numbers["speed.hard_period"] = speed.hard_anchor_period(eta)
    shown = steps[::5]
    curves = {"speed.simulated": (shown, simulated[::5]), "speed.law": (shown, law[::5])}
    for period in (35, 50):
        curves[f"speed.hard{period}"] = shown, np.asarray(speed.hard_anchor_kl(shown, period))
    return Checked(numbers, curves)
