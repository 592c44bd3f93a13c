"""BOND with quantiles that are given: exactly, where answers can be listed, or wrongly on purpose.

Counted (`bond`) and learned quantiles (`learned_bond`) are compared with this one. What is given
need not be a log-quantile: section 4.2 of version 1 prints the return without its logarithm, and
that too can be trained here.
"""

import functools

import optax

from matchbook.bond.algorithms.anchors import AnchorUpdate, fixed
from matchbook.bond.algorithms.bond import distillation_loss, draw
from matchbook.bond.algorithms.scoring import Reference, Reward, check_beta, check_samples, score
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step, advance
from matchbook.bond.policies import Policy, Prompts


def given_quantiles_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    log_quantile: Reward,
    *,
    n: int,
    beta: int | float = 0.5,
    anchor: AnchorUpdate = fixed,
    reference: Reference | None = None,
) -> Step:
    """`bond_step` with ``log_quantile(prompts, answers)`` for log p_<=; n + 1 generations a prompt.

    Raises:
      ValueError: `n` below 2, `beta` outside [0, 1].
    """
    check_beta(beta)
    check_samples("n", n, 2)
    return functools.partial(
        _step, policy, optimizer, reward, log_quantile, anchor, n, float(beta), reference
    )


def _step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    log_quantile: Reward,
    anchor: AnchorUpdate,
    n: int,
    beta: float,
    reference: Reference | None,
    state: PolicyState,
    prompts: Prompts,
) -> tuple[PolicyState, Metrics]:
    draws = draw(policy, reward, n, n, state, prompts)
    (log_quantiles,) = score(log_quantile, prompts, draws.answers)
    loss = distillation_loss(policy, n, beta, reference, prompts, draws, log_quantiles)
    return advance(state, draws.key, optimizer, anchor, loss)
