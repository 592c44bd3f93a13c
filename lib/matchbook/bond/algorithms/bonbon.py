"""BoNBoN (Gui et al., arXiv 2406.00832): fine-tuning on the best of n, and IPO on best and worst.

The loss is ``alpha * SFT(best) + (1 - alpha) * IPO(best, worst)``. Unusual: the target of IPO is no
free parameter. For Best-of-n itself the log-ratio of best and worst is (n - 1) H_{n-1} on average,
H the harmonic number, if no answer comes twice.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from matchbook.bond.algorithms.anchors import fixed
from matchbook.bond.algorithms.scoring import Reward, check_samples, pick, score
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step, advance
from matchbook.bond.monte_carlo import tie_rate
from matchbook.bond.policies import Policy, Prompts, Weights


def bonbon_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    *,
    n: int,
    alpha: int | float = 0.005,
) -> Step:
    """A step on the best and the worst of `n` samples of the anchor, which is the reference.

    IPO is ``(h - target_margin(n))^2``, h the log-ratio ``log pi - log ref`` of the best answer
    less that of the worst. The paper makes its pairs once; here they are drawn anew in every step.
    Where all n tie, best and worst are one sample, and IPO passes no gradient on.

    Args:
      n: of Best-of-n.
      alpha: weight of the fine-tuning; the published 0.005.

    Metrics: ``reward`` and ``kl_to_reference`` are not known, since the policy draws nothing; here
    are ``best_reward``, ``worst_reward`` and the mean ``margin`` h.

    Raises:
      ValueError: `n` below 2, `alpha` outside [0, 1].
    """
    check_samples("n", n, 2)
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha is the weight of fine-tuning: expected 0 <= alpha <= 1, got {alpha}"
        )
    return functools.partial(_step, policy, optimizer, reward, n, float(alpha))


def target_margin(n: int) -> float:
    """``(n - 1) * sum_{k=1..n-1} 1/k`` nats, the paper's ``1 / (2 beta*_n)``: 18.15 at n = 8."""
    return (n - 1) * sum(1 / k for k in range(1, n))


def _step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    n: int,
    alpha: float,
    state: PolicyState,
    prompts: Prompts,
) -> tuple[PolicyState, Metrics]:
    key, anchor_key = jax.random.split(state.key)
    of_anchor = policy.read(state.anchor, prompts)
    answers, _ = policy.sample(state.anchor, of_anchor, anchor_key, n)
    (rewards,) = score(reward, prompts, answers)
    ends = jnp.stack([jnp.argmax(rewards, axis=1), jnp.argmin(rewards, axis=1)], axis=1)
    pairs = pick(answers, ends)
    anchor_log_probs = policy.log_prob(state.anchor, of_anchor, pairs)

    def loss(weights: Weights) -> tuple[jax.Array, Metrics]:
        log_probs = policy.log_prob(weights, prompts, pairs)
        log_ratio = log_probs - anchor_log_probs
        margin = log_ratio[:, 0] - log_ratio[:, 1]
        ipo = jnp.mean((margin - target_margin(n)) ** 2)
        metrics = {
            "best_reward": jnp.mean(jnp.max(rewards, axis=1)),
            "worst_reward": jnp.mean(jnp.min(rewards, axis=1)),
            "margin": jnp.mean(margin),
            "tie_rate": tie_rate(rewards),
            "compared_reward": jnp.mean(rewards),
            "generations": jnp.float32(rewards.size),
        }
        return alpha * -jnp.mean(log_probs[:, 0]) + (1 - alpha) * ipo, metrics

    return advance(state, key, optimizer, fixed, loss)
