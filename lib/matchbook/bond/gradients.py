"""The three policy gradients of BOND as exact expectations over an enumerable policy.

BOND, Eq. 12-15 and Algorithm 2. A trainer estimates these from samples; here every answer is
weighed by its probability, to be compared with derivatives of the divergences themselves. Unusual
here: the regularisation term carries the sign that Eq. 19 needs, not the printed one.

`scores` are the gradients of the log-probabilities, ``d log pi(y) / d parameters``: one row an
answer.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from matchbook.bond.best_of_n import Scalar, bond_reward, log_pmf

LogPolicy = Float[Array, "answers"]
Rewards = Real[Array, "answers"]
Scores = Float[Array, "answers parameters"]
Gradient = Float[Array, "parameters"]


def forward(scores: Scores, reference: LogPolicy, rewards: Rewards, n: Scalar) -> Gradient:
    """Gradient of KL(BoN || policy), Eq. 13: supervised fine-tuning on Best-of-N samples.

    ``-E_{y ~ BoN}[d log pi(y)]``, with `reference` the log-probabilities that Best-of-N draws from.
    """
    return -jnp.exp(log_pmf(reference, rewards, n)) @ scores


def backward(
    scores: Scores, policy: LogPolicy, reference: LogPolicy, rewards: Rewards, n: int
) -> Gradient:
    """Gradient of KL(policy || BoN), Eq. 15: a policy gradient with the BOND reward.

    ``-(N-1) E_{y ~ pi}[d log pi(y) * (r_BOND(y) - (log pi(y) - log ref(y)) / (N-1))]``.
    """
    advantage = bond_reward(reference, rewards, n) - (policy - reference) / (n - 1)
    return -(n - 1) * (jnp.exp(policy) * advantage) @ scores


def regularisation(scores: Scores, policy: LogPolicy, anchor: LogPolicy) -> Gradient:
    """Gradient of KL(policy || anchor), the extra term of Eq. 19: it pulls *towards* the anchor."""
    return (jnp.exp(policy) * (policy - anchor)) @ scores


def printed_regularisation(scores: Scores, policy: LogPolicy, anchor: LogPolicy) -> Gradient:
    """G_Reg as printed in Algorithm 2, where the minus makes it push *away* from the anchor.

    Kept to show what it does; train with `regularisation`.
    """
    return -(jnp.exp(policy) * (policy - anchor)) @ scores
