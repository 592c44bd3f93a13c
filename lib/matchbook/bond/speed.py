"""How fast a moving anchor carries the policy away: why J-BOND's KL is linear (BOND, Figure 7).

Suppose that the policy always *is* Best-of-n of its anchor. Averaging logits (Eq. 18, for a tabular
policy) then multiplies the anchor's effective N by 1 + (n-1) eta a step: geometric growth of N, a
straight line in KL. Derived here, not in the paper; `simulate` checks it by doing it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from matchbook.bond import best_of_n, continuous
from matchbook.bond.continuous import Numbers
from matchbook.bond.quantiles import normalise
from matchbook.divergences import forward_kl


def effective_n(step: Numbers, eta: int | float) -> Numbers:
    """The N of which the policy is Best-of-N after `step` updates of the anchor: 2 (1 + eta)^t."""
    return 2 * (1 + eta) ** np.asarray(step, float)


def kl(step: Numbers, eta: int | float) -> Numbers:
    """KL(policy || reference) after `step` updates, nats: a slope that tends to log(1 + eta)."""
    return continuous.kl_to_reference(effective_n(step, eta))


def hard_anchor_kl(step: Numbers, period: int) -> Numbers:
    """The same with an anchor that becomes the policy each `period` steps: a staircase of log 2."""
    return continuous.kl_after_rounds(1 + np.asarray(step) // period)


def hard_anchor_period(eta: int | float) -> float:
    """The period at which a hard anchor is as fast as an EMA with rate `eta`."""
    return float(np.log(2) / np.log1p(eta))


def simulate(num_steps: int, eta: int | float, num_answers: int) -> Float[Array, "steps"]:
    """KL(policy || reference) at steps 0..num_steps, by running the loop on equally likely answers.

    The policy is set to Best-of-2 of the anchor, the anchor's logits to their moving average. In
    jax's default dtype: ask for float64 with `jax.enable_x64`.
    """
    reference = normalise(jnp.zeros(num_answers))
    rewards = jnp.arange(num_answers)

    def step(anchor, _):
        policy = best_of_n.log_pmf(anchor, rewards, 2)
        return normalise((1 - eta) * anchor + eta * policy), forward_kl(policy, reference)

    return jax.lax.scan(step, reference, length=num_steps + 1)[1]
