"""vBoN, variational Best-of-N (Amini et al., arXiv 2407.06057): the backward KL to Best-of-N alone.

With no ties ``pi_BoN(y) = (F + ref)^N - F^N``, F the chance that a reference sample is strictly
worse: the same thing as BOND's Theorem 1. Different from the published code: it optimises with PPO
and estimates F once, from hundreds of samples a prompt; here, as in all of this room, it is a
policy gradient with leave-one-out and fresh samples, so that the objectives alone are compared.
"""

import functools
import math

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from matchbook.bond.algorithms.anchors import fixed
from matchbook.bond.algorithms.scoring import (
    Reward,
    check_samples,
    policy_gradient,
    sample_metrics,
    score,
)
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step, advance
from matchbook.bond.monte_carlo import counts_worse, log_estimate
from matchbook.bond.policies import Policy, Prompts, Weights, read_and_sample


def vbon_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    *,
    n: int,
    k: int = 16,
) -> Step:
    """A step down KL(policy || Best-of-N of the reference); ``k + 1`` generations a prompt.

    The return of an answer is ``log pi_BoN - log pi`` by `log_best_of_n`, with F counted on `k`
    samples of the anchor, which is the reference; a count of j is ``(j + 1) / (k + 1)``, the
    published code's rule.

    Raises:
      ValueError: `n` or `k` below 2.
    """
    check_samples("n", n, 2)
    check_samples("k", k, 2)
    return functools.partial(_step, policy, optimizer, reward, n, k)


def log_best_of_n(
    log_worse: Float[Array, "*shape"], log_reference: Float[Array, "*shape"], n: int
) -> Float[Array, "*shape"]:
    """``log sum_{i=1..n} C(n, i) F^(n-i) ref^i``: log pi_BoN where no two answers tie.

    Args:
      log_worse: log F; finite.
      log_reference: log-probability of the answer itself; -100 and less is fine.
      n: of Best-of-N; the sum has as many terms.
    """
    terms = [
        math.log(math.comb(n, i)) + (n - i) * log_worse + i * log_reference for i in range(1, n + 1)
    ]
    return jax.nn.logsumexp(jnp.stack(terms), axis=0)


def _step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    n: int,
    k: int,
    state: PolicyState,
    prompts: Prompts,
) -> tuple[PolicyState, Metrics]:
    key, policy_key, anchor_key = jax.random.split(state.key, 3)
    of_anchor = policy.read(state.anchor, prompts)
    anchor_answers, _ = policy.sample(state.anchor, of_anchor, anchor_key, k)

    def loss(weights: Weights) -> tuple[jax.Array, Metrics]:
        of_policy, answers = read_and_sample(policy, weights, prompts, policy_key, 1)
        rewards, anchor_rewards = score(reward, prompts, answers, anchor_answers)
        log_worse = log_estimate(counts_worse(rewards, anchor_rewards), k, "plus-one")
        anchor_log_probs = policy.log_prob(state.anchor, of_anchor, answers)
        target = log_best_of_n(log_worse, anchor_log_probs, n)
        log_probs = policy.log_prob(weights, of_policy, answers)
        detached = jax.lax.stop_gradient(log_probs)
        log_ratio = detached - anchor_log_probs
        generations = rewards.size + anchor_rewards.size
        metrics = sample_metrics(rewards, log_ratio, anchor_rewards, generations)
        metrics["kl_to_reference"] = jnp.mean(log_ratio)
        return policy_gradient(log_probs, target - detached), metrics

    return advance(state, key, optimizer, fixed, loss)
