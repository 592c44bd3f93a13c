"""A toy family whose Best-of-N is out of reach: random prompts and answers, few shared weights.

Logits are ``base + features @ weights``; the reward is partly a function of the same features and
partly luck, which the weights cannot express. That is what makes Jeffreys' beta matter (BOND,
Figures 2 and 10). A space is a pytree of arrays, so that one program serves all seeds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.optimize import minimize
from jaxtyping import Array, Float, Int

from matchbook.bond import best_of_n, exact, policies
from matchbook.bond.algorithms.scoring import Reward
from matchbook.bond.algorithms.state import Metrics
from matchbook.divergences import backward_kl, forward_kl

Table = Float[Array, "prompts answers"]
Weights = Float[Array, " features"]


class Space(NamedTuple):
    """Prompts and answers, listed; the reference is the policy with all weights zero."""

    base: Table
    features: Float[Array, "prompts answers features"]
    rewards: Table

    @property
    def log_pmf(self) -> policies.LogPmf:
        """Of the family, from its weights."""
        return policies.log_linear_log_pmf(self.base, self.features)

    @property
    def policy(self) -> policies.Policy:
        """The family as a policy: prompts and answers are their numbers."""
        return policies.enumerable(self.log_pmf)

    @property
    def reward(self) -> Reward:
        """The table as a reward."""
        return exact.table_reward(self.rewards)

    @property
    def reference(self) -> Table:
        """Log-probabilities of all answers at zero weights."""
        return jax.nn.log_softmax(self.base)

    @property
    def prompts(self) -> Int[Array, " prompts"]:
        """The number of each prompt."""
        return jnp.arange(len(self.base))

    def target(self, n: int | float | Float[Array, ""]) -> Table:
        """Log-probabilities of Best-of-N of the reference."""
        return best_of_n.log_pmf(self.reference, self.rewards, n)

    def numbers(self, weights: Weights, n: int | float | Float[Array, ""]) -> Metrics:
        """`exact.numbers` of the policy with these weights."""
        policy = self.log_pmf(weights, self.prompts)
        return exact.numbers(policy, self.target(n), self.reference, self.rewards)


def random_space(
    seed: int, prompts: int = 32, answers: int = 64, features: int = 16, luck: int | float = 0.7
) -> Space:
    """Features of length about 1, base logits of standard deviation 1; few ties.

    The reward's learnable part has variance 1 and its luck standard deviation `luck`; then each
    prompt's rewards are scaled to mean 0 and variance 1.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((prompts, answers, features)) / np.sqrt(features)
    rewards = drawn @ rng.standard_normal(features)
    rewards += luck * rng.standard_normal((prompts, answers))
    rewards = (rewards - rewards.mean(1, keepdims=True)) / rewards.std(1, keepdims=True)
    base = rng.standard_normal((prompts, answers))
    return Space(*(jnp.asarray(part, jnp.float32) for part in (base, drawn, rewards)))


@jax.jit
def optima(
    space: Space, n: Float[Array, ""], betas: Float[Array, " betas"]
) -> Float[Array, "betas features"]:
    """The weights with the least Jeffreys to Best-of-N for each beta, by BFGS on exact gradients.

    Forward KL (beta 0) is convex in the weights; elsewhere it is a minimum near the reference.
    """
    target = space.target(n)

    def divergence(weights: Weights, beta: Array) -> Array:
        policy = space.log_pmf(weights, space.prompts)
        forward, backward = forward_kl(target, policy), backward_kl(target, policy)
        return jnp.mean((1 - beta) * forward + beta * backward)

    def optimum(beta: Array) -> Weights:
        with jax.numpy_dtype_promotion("standard"):  # its line search mixes types
            start = jnp.zeros(space.features.shape[-1])
            return minimize(divergence, start, args=(beta,), method="BFGS").x

    return jax.vmap(optimum)(betas)
