"""Quantiles counted on a few anchor samples, for use inside a compiled step: BOND, Eq. 10.

The paper does not say what becomes of log(0), where no anchor sample is as low as the answer; the
rule is an argument here, the same two as in `quantile_estimates`, which has their exact bias.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from matchbook.bond.quantile_estimates import ZeroRule

Rewards = Float[Array, "prompts samples"]
Counts = Int[Array, "prompts samples"]
Worse = Bool[Array, "prompts samples"]
AnchorRewards = Float[Array, "prompts k"]


def counts_not_better(rewards: Rewards, anchor_rewards: AnchorRewards) -> Counts:
    """How many of the prompt's k anchor samples have a reward that is not above the answer's."""
    return jnp.sum(anchor_rewards[:, None, :] <= rewards[:, :, None], axis=-1)


def counts_worse(rewards: Rewards, anchor_rewards: AnchorRewards) -> Counts:
    """How many of the prompt's k anchor samples have a reward strictly below the answer's."""
    return jnp.sum(anchor_rewards[:, None, :] < rewards[:, :, None], axis=-1)


def log_estimate(count: Counts, k: int, rule: ZeroRule) -> Rewards:
    """The estimate of a log-quantile after `count` of `k`; finite under both rules.

    ``floor``: ``log(max(count, 1/2) / k)``, which is right on average at large counts and cut at
    ``1/(2k)``. ``plus-one``: ``log((count + 1) / (k + 1))``, which never is -inf but lifts all.

    Raises:
      ValueError: another rule.
    """
    count = count.astype(jnp.float32)
    if rule == "floor":
        return jnp.log(jnp.maximum(count, 0.5) / k)
    if rule == "plus-one":
        return jnp.log((count + 1) / (k + 1))
    raise ValueError(f"a zero count is handled by the rule 'floor' or 'plus-one', got {rule!r}")


def log_quantile(rewards: Rewards, anchor_rewards: AnchorRewards, rule: ZeroRule) -> Rewards:
    """The estimate of ``log p_<=`` of each answer on its prompt's k anchor samples."""
    count = counts_not_better(rewards, anchor_rewards)
    return log_estimate(count, anchor_rewards.shape[1], rule)


def worse_than_all(rewards: Rewards, anchor_rewards: AnchorRewards) -> Worse:
    """Whether an answer is strictly worse than every anchor sample: J-BOND's event, Eq. 17."""
    return rewards < jnp.min(anchor_rewards, axis=1, keepdims=True)


def tie_rate(rewards: AnchorRewards) -> Float[Array, ""]:
    """Share of pairs of a prompt's samples with equal reward: where it is 1, BOND has no signal.

    Raises:
      ValueError: fewer than two samples a prompt.
    """
    samples = rewards.shape[1]
    if samples < 2:
        raise ValueError(f"a tie takes two samples a prompt, got {samples}")
    equal = jnp.sum(rewards[:, None, :] == rewards[:, :, None], axis=(1, 2)).astype(jnp.float32)
    finite = jnp.sum(rewards == rewards, axis=1).astype(jnp.float32)  # a NaN equals nothing
    return jnp.mean((equal - finite) / (samples * (samples - 1)))
