"""Everything exactly, for policies whose answers can be listed: what samples only estimate.

Best-of-N of the reference, both KLs to it, and the best that a family of policies can do, by the
exact gradient of Jeffreys (BOND, Eq. 11) instead of a sampled one.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from matchbook.bond import best_of_n
from matchbook.bond.algorithms.anchors import fixed
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step, advance
from matchbook.bond.policies import LogPmf, Prompts, Weights
from matchbook.bond.quantiles import log_masses, normalise
from matchbook.divergences import backward_kl, forward_kl, jeffreys

LogProbs = Float[Array, "prompts answers"]
Table = Float[Array, "prompts answers"]


def evaluation(
    log_pmf: LogPmf,
    prompts: Prompts,
    reference: LogProbs,
    rewards: Table,
    *,
    n: int,
) -> Callable[[Any], Metrics]:
    """A compiled function from a state to exact numbers, means over the prompts, in nats.

    Args:
      log_pmf: of the policy, from its weights and `prompts`.
      reference: log-probabilities of all answers under the reference.
      rewards: of all answers.
      n: of the Best-of-N that the policy is compared with.

    Returns:
      A function for `lab.fit`'s ``evaluate``: of a `PolicyState`, or any state with weights in
      ``.weights``. Its numbers: ``exact_kl_to_reference``, ``exact_forward_kl`` KL(BoN || policy),
      ``exact_backward_kl`` KL(policy || BoN), ``exact_reward``, ``exact_log_quantile`` and
      ``exact_win_rate`` against the reference.
    """
    listed = _listed(best_of_n.log_pmf(reference, rewards, n), reference, rewards)
    # As arguments: of constants the compiler would compute all that it can, by itself and slowly.
    return lambda state: _measured(log_pmf, state.weights, prompts, listed)


def numbers(policy: LogProbs, target: LogProbs, reference: LogProbs, rewards: Table) -> Metrics:
    """The numbers of `evaluation` from log-probabilities of all answers; means over the prompts."""
    return _numbers(policy, _listed(target, reference, rewards))


class Listed(NamedTuple):
    """What does not depend on the policy, of all answers: sorted once, looked up ever after.

    target: log-probabilities of Best-of-N.
    log_quantiles: log p_<= under the reference.
    beaten: the share of the reference's answers that an answer beats, ties counted half.
    """

    target: LogProbs
    reference: LogProbs
    rewards: Table
    log_quantiles: Table
    beaten: Table


@jax.jit
def _listed(target: LogProbs, reference: LogProbs, rewards: Table) -> Listed:
    masses = log_masses(reference, rewards)
    return Listed(
        target=target,
        reference=normalise(reference),
        rewards=rewards.astype(jnp.float32),
        log_quantiles=masses.log_quantiles.less_equal,
        beaten=jnp.exp(masses.worse) + jnp.exp(masses.tied) / 2,
    )


@functools.partial(jax.jit, static_argnums=0)
def _measured(log_pmf: LogPmf, weights: Weights, prompts: Prompts, listed: Listed) -> Metrics:
    return _numbers(log_pmf(weights, prompts), listed)


def _numbers(policy: LogProbs, listed: Listed) -> Metrics:
    probs = jnp.exp(policy)
    log_quantiles = jnp.where(jnp.isneginf(policy), 0, listed.log_quantiles)  # never 0 * -inf
    of_prompts = {
        "exact_kl_to_reference": forward_kl(policy, listed.reference),
        "exact_forward_kl": forward_kl(listed.target, policy),
        "exact_backward_kl": backward_kl(listed.target, policy),
        "exact_reward": jnp.sum(probs * listed.rewards, axis=-1),
        "exact_log_quantile": jnp.sum(probs * log_quantiles, axis=-1),
        "exact_win_rate": jnp.sum(probs * listed.beaten, axis=-1),
    }
    return {name: jnp.mean(value) for name, value in of_prompts.items()}


def jeffreys_step(
    log_pmf: LogPmf,
    optimizer: optax.GradientTransformation,
    prompts: Prompts,
    target: LogProbs,
    *,
    beta: int | float,
) -> Step:
    """A step down the exact ``Jeffreys_beta(policy || target)``, mean over `prompts`.

    Where it ends is the best that the family of policies can do, a line to draw under a trainer
    that only samples. It takes empty batches, ``itertools.repeat(())``.

    Raises:
      ValueError: `beta` outside [0, 1].
    """

    descend = functools.partial(_descend, log_pmf, optimizer, beta)
    return Partial(descend, prompts, target)  # as arguments of the compiled program, see above


def _descend(
    log_pmf: LogPmf,
    optimizer: optax.GradientTransformation,
    beta: int | float,
    prompts: Prompts,
    target: LogProbs,
    state: PolicyState,
    batch: Any,
) -> tuple[PolicyState, Metrics]:
    def loss(weights: Weights) -> tuple[jax.Array, Metrics]:
        return jnp.mean(jeffreys(target, log_pmf(weights, prompts), beta=beta)), {}

    return advance(state, state.key, optimizer, fixed, loss)


def table_reward(table: Table) -> Callable[[Any, Any], Float[Array, "prompts samples"]]:
    """A reward looked up in a table, for policies whose prompts and answers are its places."""

    def reward(
        prompts: Int[Array, " prompts"], answers: Int[Array, "prompts samples"]
    ) -> Float[Array, "prompts samples"]:
        return jnp.take_along_axis(table[prompts], answers, axis=1)

    return reward
