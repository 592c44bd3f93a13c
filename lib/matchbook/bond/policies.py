"""What the algorithms of BOND need of a policy: draw answers, and say how likely they are.

A policy is a pair of pure functions of its weights, so that one trainer serves a table of answers,
an enumerable language model and real text. Here are those over a list of answers; `sequences` has
the transformer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Weights = Any  # a pytree of arrays
Prompts = Any  # a pytree of arrays with a leading axis `prompts`
Answers = Int[Array, "prompts samples *answer"]  # an index, or tokens along a last axis
Winners = Int[Array, "prompts 1 *answer"]
LogProbs = Float[Array, "prompts samples"]
LogPmf = Callable[[Weights, Prompts], Float[Array, "prompts answers"]]


class Policy(NamedTuple):
    """A policy as pure functions.

    sample: ``(weights, prompts, key, num_samples) -> (answers, log_probs)``, independent draws.
    log_prob: ``(weights, prompts, answers) -> log_probs``, differentiable in the weights; of a
      whole answer, in nats.
    read: ``(weights, prompts) -> prompts`` for both, which have not to be read again by these
      weights; differentiable.
    """

    sample: Callable[[Weights, Prompts, Key[Array, ""], int], tuple[Answers, LogProbs]]
    log_prob: Callable[[Weights, Prompts, Answers], LogProbs]
    read: Callable[[Weights, Prompts], Prompts] = lambda weights, prompts: prompts


def frozen(policy: Policy, weights: Weights) -> Callable[[Prompts, Answers], LogProbs]:
    """``(prompts, answers) -> log_probs`` of a policy that is no part of any state."""
    return lambda prompts, answers: policy.log_prob(weights, prompts, answers)


def read_and_sample(
    policy: Policy, weights: Weights, prompts: Prompts, key: Key[Array, ""], num_samples: int
) -> tuple[Prompts, Answers]:
    """Inside of a loss: the prompts as read, which the gradient may pass, and answers to them."""
    found = policy.read(weights, prompts)
    answers, _ = policy.sample(*jax.lax.stop_gradient((weights, found)), key, num_samples)
    return found, answers


def enumerable(log_pmf: LogPmf) -> Policy:
    """A policy over a list of answers, which it names by their index.

    Args:
      log_pmf: log-probabilities of all answers to each prompt, ``[prompts, answers]``, normalised.
    """

    def sample(
        weights: Weights, prompts: Prompts, key: Key[Array, ""], num_samples: int
    ) -> tuple[Answers, LogProbs]:
        log_probs = log_pmf(weights, prompts)
        shape = (num_samples, log_probs.shape[0])
        answers = jax.random.categorical(key, log_probs, shape=shape).T.astype(jnp.int32)
        return answers, jnp.take_along_axis(log_probs, answers, axis=1)

    def log_prob(weights: Weights, prompts: Prompts, answers: Answers) -> LogProbs:
        return jnp.take_along_axis(log_pmf(weights, prompts), answers, axis=1)

    return Policy(sample, log_prob)


def table_log_pmf(
    logits: Float[Array, "all_prompts answers"], prompts: Int[Array, " prompts"]
) -> Float[Array, "prompts answers"]:
    """The rows of a table of logits, normalised; `prompts` are row numbers."""
    return jax.nn.log_softmax(logits[prompts].astype(jnp.float32))


TABULAR = enumerable(table_log_pmf)
"""One logit for every answer to every prompt. It can represent every distribution."""


def log_linear_log_pmf(
    base: Float[Array, "all_prompts answers"],
    features: Float[Array, "all_prompts answers features"],
) -> LogPmf:
    """A family that cannot represent everything: logits ``base + features @ weights``.

    The weights, ``[features]``, are shared by all prompts, as those of a language model are. At
    zero weights the policy is softmax of `base`.
    """

    def log_pmf(
        weights: Float[Array, " features"], prompts: Int[Array, " prompts"]
    ) -> Float[Array, "prompts answers"]:
        return jax.nn.log_softmax(base[prompts] + features[prompts] @ weights)

    return log_pmf
