"""Answers as token sequences: their log-probabilities under a Gemma 2 transformer, and sampling.

The log-probability of an answer is the *sum* over its tokens, the stop token included (BOND has no
length normalisation); the prompt and what follows the stop do not count. Unusual: logits are
computed at the places that predict an answer's token alone, never over the prompt.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from matchbook.bond.policies import LogProbs, Policy, Weights
from matchbook.gemma import Transformer


class TokenPrompts(NamedTuple):
    """Prompts padded on the left, so that all answers begin in the same column.

    tokens: any id below the vocabulary's size where padded.
    segments: 1, and 0 for padding.
    """

    tokens: Int[Array, "prompts prompt_time"]
    segments: Int[Array, "prompts prompt_time"]

    @property
    def positions(self) -> Int[Array, "prompts prompt_time"]:
        """The place of each token in its prompt; 0 for padding."""
        return jnp.maximum(jnp.cumsum(self.segments, axis=1) - 1, 0).astype(jnp.int32)

    def repeat(self, num_samples: int) -> "TokenPrompts":
        """Each prompt `num_samples` times, one after the other."""
        return TokenPrompts(*(jnp.repeat(part, num_samples, axis=0) for part in self))


def token_prompts(prompts: Sequence[Sequence[int]]) -> TokenPrompts:
    """Prompts from lists of tokens, as wide as the longest.

    Raises:
      ValueError: an empty prompt: there would be nothing to predict the first token from.
    """
    width = max(map(len, prompts), default=0)
    tokens = np.zeros((len(prompts), width), np.int32)
    segments = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompt {row} is empty: give it one token at least, such as <bos>")
        tokens[row, width - len(prompt) :] = prompt
        segments[row, width - len(prompt) :] = 1
    return TokenPrompts(jnp.asarray(tokens), jnp.asarray(segments))


def counted(
    answers: Int[Array, "*batch time"], stop_tokens: tuple[int, ...]
) -> Bool[Array, "*batch time"]:
    """Which tokens belong to the answer: all up to the first stop token, which is one of them."""
    is_stop = jnp.zeros(answers.shape, bool)
    for stop in stop_tokens:
        is_stop |= answers == stop
    stops = is_stop.astype(jnp.int32)
    stops_before = jnp.cumsum(stops, axis=-1) - stops
    return stops_before == 0


def joined(
    prompts: TokenPrompts, answers: Int[Array, "prompts time"]
) -> tuple[Int[Array, "prompts all_time"], ...]:
    """Tokens, positions and segments of prompts with one answer behind each."""
    shape = answers.shape
    after = prompts.positions[:, -1:] + 1 + jnp.arange(shape[1], dtype=jnp.int32)[None, :]
    parts = (prompts.tokens, answers), (prompts.positions, after)
    parts += ((prompts.segments, jnp.ones(shape, prompts.segments.dtype)),)
    tokens, positions, segments = (
        jnp.concatenate([a, b.astype(a.dtype)], axis=1) for a, b in parts
    )
    return tokens, positions, segments


def token_log_probs(
    model: Transformer, prompts: TokenPrompts, answers: Int[Array, "prompts time"]
) -> Float[Array, "prompts time"]:
    """Log-probability of each token of one answer a prompt, given all before it; float32.

    Raises:
      ValueError: the numbers of prompts and answers differ.
    """
    if prompts.tokens.shape[0] != answers.shape[0]:
        raise ValueError(
            f"one answer a prompt is expected, got {answers.shape[0]} answers for "
            f"{prompts.tokens.shape[0]} prompts: repeat the prompts"
        )
    before, width = answers.shape[1] - 1, prompts.tokens.shape[1]
    hidden = model.hidden(*joined(prompts, answers[:, :before]))
    log_probs = jax.nn.log_softmax(model.unembed(hidden[:, width - 1 :]))
    return jnp.take_along_axis(log_probs, answers[..., None], axis=-1)[..., 0]


@functools.lru_cache
def transformer_policy(
    graph: nnx.GraphDef, num_new: int, stop_tokens: tuple[int, ...] = ()
) -> Policy:
    """A transformer that answers with at most `num_new` tokens, as a policy.

    Its answers are ``[prompts, samples, num_new]``, 0 after a stop token, and its prompts
    `TokenPrompts`. `sample` runs the plain model over the whole width for every token, without a
    cache: right for answers of a few tokens, `num_new` times too dear for long ones.

    Args:
      graph: static part of the model, from `nnx.split`.
      num_new: tokens of an answer at most, the stop token counted.
      stop_tokens: an answer ends with the first of these.
    """

    def log_prob(
        weights: Weights, prompts: TokenPrompts, answers: Int[Array, "prompts samples time"]
    ) -> LogProbs:
        num_prompts, num_samples, time = answers.shape
        flat = answers.reshape(-1, time)
        each = token_log_probs(nnx.merge(graph, weights), prompts.repeat(num_samples), flat)
        total = jnp.sum(jnp.where(counted(flat, stop_tokens), each, 0.0), axis=-1)
        return total.reshape(num_prompts, num_samples)

    def sample(
        weights: Weights, prompts: TokenPrompts, key: Key[Array, ""], num_samples: int
    ) -> tuple[Int[Array, "prompts samples time"], LogProbs]:
        model, rows = nnx.merge(graph, weights), prompts.repeat(num_samples)
        num_rows, width = rows.tokens.shape
        inputs = joined(rows, jnp.zeros((num_rows, num_new), jnp.int32))
        keys = jax.random.split(key, num_new)

        def choose(index: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            tokens, log_probs, stopped = carry
            hidden = model.hidden(tokens, *inputs[1:])
            last = jax.lax.dynamic_index_in_dim(hidden, width - 1 + index, 1, keepdims=False)
            choices = jax.nn.log_softmax(model.unembed(last))
            token = jax.random.categorical(keys[index], choices).astype(jnp.int32)
            token = jnp.where(stopped, 0, token)
            chosen = jnp.take_along_axis(choices, token[:, None], axis=1)[:, 0]
            tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, width + index))
            log_probs = log_probs + jnp.where(stopped, 0.0, chosen)
            return tokens, log_probs, stopped | ~counted(_then(token), stop_tokens)[:, 1]

        start = inputs[0], jnp.zeros(num_rows, jnp.float32), jnp.zeros(num_rows, bool)
        tokens, log_probs, _ = jax.lax.fori_loop(0, num_new, choose, start)
        answers = tokens[:, width:].reshape(-1, num_samples, num_new)
        return answers, log_probs.reshape(-1, num_samples)

    return Policy(sample, log_prob)


def _then(token: Int[Array, " rows"]) -> Int[Array, "rows 2"]:
    """A token and one more, which counts unless the first is a stop."""
    return jnp.stack([token, jnp.full_like(token, -1)], axis=1)
