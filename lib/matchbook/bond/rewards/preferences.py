"""Preferences without raters: what people wrote, against what a policy says to the same prompt."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from matchbook.bond.policies import Policy, Weights
from matchbook.bond.sequences import AnsweredPrompts, TokenPrompts


class Preferences(NamedTuple):
    """Prompts with two answers, the first of which is to be preferred."""

    tokens: Int[Array | np.ndarray, "prompts prompt_time"]
    segments: Int[Array | np.ndarray, "prompts prompt_time"]
    chosen: Int[Array | np.ndarray, "prompts time"]
    rejected: Int[Array | np.ndarray, "prompts time"]

    @property
    def batch(self) -> tuple[TokenPrompts, Array, Array]:
        """What `preference_step` takes."""
        prompts = TokenPrompts(jnp.asarray(self.tokens), jnp.asarray(self.segments))
        return prompts, jnp.asarray(self.chosen), jnp.asarray(self.rejected)


def against_samples(
    policy: Policy,
    weights: Weights,
    rows: AnsweredPrompts,
    num_samples: int,
    key: Key[Array, ""],
    batch_size: int = 128,
) -> Preferences:
    """The given answer to each prompt, preferred to `num_samples` of a policy's: a row for each.

    Args:
      policy: of tokens.
      weights: its weights.
      rows: prompts with the answers that people gave.
      num_samples: answers to draw for each prompt.
      key: of the draws.
      batch_size: prompts answered at a time.
    """
    draw = jax.jit(policy.sample, static_argnums=3)
    number, drawn = len(rows.tokens), []
    for start in range(0, number, batch_size):
        places = np.arange(start, start + batch_size) % number  # the last batch is filled up
        prompts = TokenPrompts(*(jnp.asarray(part[places]) for part in rows[:2]))
        answers, _ = draw(weights, prompts, jax.random.fold_in(key, start), num_samples)
        drawn.append(np.asarray(answers))
    rejected = np.concatenate(drawn)[:number].reshape(number * num_samples, -1)
    repeated = (np.repeat(part, num_samples, axis=0) for part in rows)
    return Preferences(*repeated, rejected)
