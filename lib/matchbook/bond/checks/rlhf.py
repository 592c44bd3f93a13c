"""Best-of-N as the optimum of RLHF with the BOND reward (Eq. 8); what that reward is blind to."""

import jax
import jax.numpy as jnp
import numpy as np

from matchbook.bond import best_of_n
from matchbook.bond.checks.checked import (
    DEMO_PROBS,
    DEMO_REWARDS,
    Checked,
    largest,
    random_spaces,
)
from matchbook.divergences import forward_kl

NS = (2, 4, 8, 16)
TRANSFORMS = (np.exp, np.cbrt, np.tanh, lambda r: 3 * r - 7, lambda r: -1 / (r + 1))


def equivalence(seed: int, cases: int) -> Checked:
    """The optimum at beta = 1/(N-1) against Best-of-N, and its log-normaliser, which should be 0.

    Curves ``rlhf.N`` sweep beta on the drawn space: KL(optimum || Best-of-N), 0 at 1/(N-1) alone.
    """
    probs, rewards = random_spaces(seed, cases)
    reference, ranks = jnp.log(probs), jnp.asarray(rewards)
    demo, demo_ranks = jnp.log(DEMO_PROBS), jnp.asarray(DEMO_REWARDS)
    errors, normalisers, curves = [], [], {}
    sweep = jax.jit(jax.vmap(best_of_n.rlhf_optimum, in_axes=(None, None, 0)))
    for n in NS:
        optimum, log_normaliser = best_of_n.rlhf_optimum(
            reference, best_of_n.bond_reward(reference, ranks, n), 1 / (n - 1)
        )
        errors.append(np.exp(optimum) - np.exp(best_of_n.log_pmf(reference, ranks, n)))
        normalisers.append(log_normaliser)
        reward = best_of_n.bond_reward(demo, demo_ranks, n)
        target = best_of_n.log_pmf(demo, demo_ranks, n)
        betas = np.sort(np.append(np.geomspace(0.02, 5, 48), 1 / (n - 1)))
        optima, _ = sweep(demo, reward, jnp.asarray(betas))
        kls = forward_kl(optima, jnp.broadcast_to(target, optima.shape))
        curves[f"rlhf.N{n}"] = betas, np.asarray(kls)
    numbers = {"rlhf.error": largest(errors), "rlhf.log_normaliser": largest(normalisers)}
    return Checked(numbers, curves)


def invariance(seed: int, cases: int) -> Checked:
    """The largest change of r_BOND when the reward goes through an increasing function."""
    probs, rewards = random_spaces(seed, cases)
    reference = jnp.log(probs)
    plain = best_of_n.bond_reward(reference, jnp.asarray(rewards.astype(float)), 8)
    changes = [
        best_of_n.bond_reward(reference, jnp.asarray(transform(rewards.astype(float) / 12)), 8)
        - plain
        for transform in TRANSFORMS
    ]
    return Checked({"invariance.largest_change": largest(changes)}, {})
