"""The enumerable language model with a reference and a reward: everything that notebooks share.

Pretrain once (`pretraining`, in the one loop), then `task` lists what is exact: the reference's
probabilities of all 32,768 answers, and their rewards.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float

from matchbook.bond import enumerable_lm, exact, frontier, sequences
from matchbook.bond.algorithms.sft import imitation_step
from matchbook.bond.algorithms.state import Metrics, PolicyState, Step, adam, policy_state
from matchbook.bond.learned_quantile import QuantileModel, transformer_quantile
from matchbook.bond.policies import LogPmf, Policy, Weights

Table = Float[Array, "prompts answers"]


class Task(NamedTuple):
    """A reference and a reward, for the 8 prompts of one token.

    policy, log_pmf: of the transformer, from its weights.
    weights: the reference's.
    reference: its log-probabilities of all answers.
    rewards: of all answers.
    """

    policy: Policy
    log_pmf: LogPmf
    weights: Weights
    reference: Table
    rewards: Table

    def evaluation(self, n: int) -> Callable[[Any], Metrics]:
        """`exact.evaluation` against Best-of-`n` of the reference; compiled once for all tasks."""
        prompts = enumerable_lm.prompts()
        return exact.evaluation(self.log_pmf, prompts, self.reference, self.rewards, n=n)

    def state(self, optimizer: optax.GradientTransformation, seed: int) -> PolicyState:
        """The state in which every algorithm starts: the policy is the reference."""
        return policy_state(self.weights, optimizer, seed)

    def best_of_n(self, ns: Float[np.ndarray, "points"]) -> frontier.Line:
        """The line of Best-of-N sampling."""
        return frontier.best_of_n_line(self.reference, self.rewards, ns)


def policy(width: int) -> Policy:
    """The transformer of this width as a policy."""
    return sequences.transformer_policy(_model(width)[0], enumerable_lm.LENGTH)


def quantile_model(width: int) -> QuantileModel:
    """A learned quantile whose trunk is such a transformer; see `learned_quantile`."""
    return transformer_quantile(_model(width)[0])


def pretraining(
    width: int, optimizer: optax.GradientTransformation | None = None
) -> tuple[Step, PolicyState]:
    """Step and state with which a new model learns the Markov source, on fresh answers.

    Args:
      width: of the model, `enumerable_lm.config`'s `embed_dim`.
      optimizer: by default Adam at a rate of 0.01 after 20 steps of warm-up.
    """
    optimizer = optimizer or adam(0.01, 20)
    source = enumerable_lm.markov_source(enumerable_lm.markov_transitions(seed=0))
    step = imitation_step(policy(width), optimizer, source, num_samples=4)
    return step, policy_state(_model(width)[1], optimizer, seed=0)


def task(width: int, weights: Weights, reward_seed: int, luck: int | float = 0.7) -> Task:
    """The task of one reward; `weights` are the reference's, from `pretraining`."""
    log_pmf = enumerable_lm.log_pmf(_model(width)[0])
    return Task(
        policy=policy(width),
        log_pmf=log_pmf,
        weights=weights,
        reference=_all(log_pmf, weights),
        rewards=enumerable_lm.reward_table(reward_seed, luck),
    )


@functools.lru_cache
def _model(width: int) -> tuple[Any, Weights]:
    return enumerable_lm.new_model(enumerable_lm.config(width), seed=0)


@functools.partial(jax.jit, static_argnums=0)
def _all(log_pmf: LogPmf, weights: Weights) -> Table:
    return log_pmf(weights, enumerable_lm.prompts())
