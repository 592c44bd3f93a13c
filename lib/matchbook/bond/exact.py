"""Everything exactly, for policies whose answers can be listed: what samples only estimate.

Best-of-N of the reference, both KLs to it, and the best that a family of policies can do, by the
exact gradient of Jeffreys (BOND, Eq. 11) instead of a sampled one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from matchbook.bond import best_of_n
from matchbook.bond.algorithms.anchors import fixed
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step, advance
from matchbook.bond.policies import LogPmf, Prompts, Weights
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
    target = best_of_n.log_pmf(reference, rewards, n)

    @jax.jit
    def measured(
        weights: Weights, prompts: Prompts, target: LogProbs, reference: LogProbs, rewards: Table
    ) -> Metrics:
        policy = log_pmf(weights, prompts)
        numbers = {
            "exact_kl_to_reference": forward_kl(policy, reference),
            "exact_forward_kl": forward_kl(target, policy),
            "exact_backward_kl": backward_kl(target, policy),
            "exact_reward": jnp.sum(jnp.exp(policy) * rewards, axis=-1),
            "exact_log_quantile": best_of_n.expected_log_quantile(policy, reference, rewards),
            "exact_win_rate": best_of_n.win_rate(policy, reference, rewards),
        }
        return {name: jnp.mean(value) for name, value in numbers.items()}

    # As arguments: of constants the compiler would compute all that it can, by itself and slowly.
    return lambda state: measured(state.weights, prompts, target, reference, rewards)


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

    def step(state: PolicyState, batch: Any) -> tuple[PolicyState, Metrics]:
        def loss(weights: Weights) -> tuple[jax.Array, Metrics]:
            return jnp.mean(jeffreys(target, log_pmf(weights, prompts), beta=beta)), {}

        return advance(state, state.key, optimizer, fixed, loss)

    return step


def table_reward(table: Table) -> Callable[[Any, Any], Float[Array, "prompts samples"]]:
    """A reward looked up in a table, for policies whose prompts and answers are its places."""

    def reward(
        prompts: Int[Array, " prompts"], answers: Int[Array, "prompts samples"]
    ) -> Float[Array, "prompts samples"]:
        return jnp.take_along_axis(table[prompts], answers, axis=1)

    return reward
