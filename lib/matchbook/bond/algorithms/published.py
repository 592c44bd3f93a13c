"""J-BOND with the numbers of BOND, section 6, for whoever has weights of Gemma 2B or 7B.

step = published.jbond_step(policy, reward)
state = algorithms.policy_state(weights, published.adam(), seed=0)  # and 128 prompts to a step
"""

import optax

from matchbook.bond.algorithms import jbond, state
from matchbook.bond.algorithms.anchors import ema
from matchbook.bond.algorithms.scoring import Reference, Reward, Scalar
from matchbook.bond.algorithms.state import Step
from matchbook.bond.policies import Policy

BATCH = 128  # prompts
BETA = 0.5
ETA = 0.02  # of the 7B runs, Figures 5 and 7; Figure 6 tries .01, .05 and .1 on 2B


def adam() -> optax.GradientTransformation:
    """A rate of 3e-6 after 100 updates of warm-up."""
    return state.adam(3e-6, warmup_steps=100)


def jbond_step(
    policy: Policy, reward: Reward, *, gamma: Scalar = 0.0, reference: Reference | None = None
) -> Step:
    """`algorithms.jbond_step` with `adam()` and an anchor that goes 2 % of the way each time.

    Args:
      policy, reward, reference: as there.
      gamma: none in Figure 5; Figure 6 tries 0, .5, 1 and 2 on 2B.
    """
    return jbond.jbond_step(
        policy, adam(), reward, ema(ETA), beta=BETA, gamma=gamma, reference=reference
    )
