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
from matchbook.gemma.reading import Read, go_on, read
from matchbook.gemma.rollout import rollout_from
from matchbook.gemma.sampling import row_keys, sampling


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


class AnsweredPrompts(NamedTuple):
    """Prompts, as in `TokenPrompts`, with one answer each: rows to learn from.

    answers: 0 behind the stop.
    """

    tokens: Int[Array | np.ndarray, "prompts prompt_time"]
    segments: Int[Array | np.ndarray, "prompts prompt_time"]
    answers: Int[Array | np.ndarray, "prompts time"]

    @property
    def prompts(self) -> TokenPrompts:
        return TokenPrompts(jnp.asarray(self.tokens), jnp.asarray(self.segments))


def token_prompts(prompts: Sequence[Sequence[int]], width: int | None = None) -> TokenPrompts:
    """Prompts from lists of tokens, as wide as the longest, or `width` tokens.

    Raises:
      ValueError: an empty prompt: there would be nothing to predict the first token from; one
        longer than `width`.
    """
    longest = max(map(len, prompts), default=0)
    width = longest if width is None else width
    if longest > width:
        row = max(range(len(prompts)), key=lambda row: len(prompts[row]))
        raise ValueError(f"prompt {row}: expected at most {width} tokens, got {longest}")
    tokens = np.zeros((len(prompts), width), np.int32)
    segments = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompt {row} is empty: give it one token at least, such as <bos>")
        tokens[row, width - len(prompt) :] = prompt
        segments[row, width - len(prompt) :] = 1
    return TokenPrompts(jnp.asarray(tokens), jnp.asarray(segments))


def token_answers(
    answers: Sequence[Sequence[int]], num_new: int
) -> Int[np.ndarray, "answers num_new"]:
    """Answers from lists of tokens, the stop included, 0 behind it: as a policy samples them.

    Raises:
      ValueError: an answer without a token, or with more than `num_new`.
    """
    tokens = np.zeros((len(answers), num_new), np.int32)
    for row, answer in enumerate(answers):
        if not 0 < len(answer) <= num_new:
            raise ValueError(f"answer {row}: expected 1 to {num_new} tokens, got {len(answer)}")
        tokens[row, : len(answer)] = answer
    return tokens


def answered_prompts(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], width: int, num_new: int
) -> AnsweredPrompts:
    """Rows from prompts and answers as lists of tokens, such as `corpus.encode_pairs` makes.

    Raises:
      ValueError: as `token_prompts` and `token_answers`.
    """
    prompts = token_prompts([prompt for prompt, _ in pairs], width)
    answers = token_answers([answer for _, answer in pairs], num_new)
    return AnsweredPrompts(*(np.asarray(part) for part in prompts), answers)


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


def read_prompts(model: Transformer, prompts: TokenPrompts | Read) -> Read:
    """What the model makes of the prompts, unless they have been read."""
    if isinstance(prompts, Read):
        return prompts
    return read(model, prompts.tokens, prompts.positions, prompts.segments)


def answer_streams(
    model: Transformer, prompts: TokenPrompts | Read, answers: Int[Array, "prompts samples seen"]
) -> Float[Array, "prompts samples seen_and_1 embed"]:
    """The model's last stream at the end of the prompt and at each token of each answer.

    The prompt is read once for all its answers, unless it has been.

    Raises:
      ValueError: the numbers of prompts and of rows of answers differ.
    """
    if len(prompts.positions) != len(answers):
        raise ValueError(
            f"answers are [prompts, samples, time]: expected as many rows as prompts, "
            f"{len(prompts.positions)}, got {answers.shape}"
        )
    found = read_prompts(model, prompts)
    streams = go_on(model, found, answers)
    ends = jnp.broadcast_to(found.stream[:, None, None], (*streams.shape[:2], 1, streams.shape[3]))
    return jnp.concatenate([ends, streams], axis=2)


def answer_log_probs(
    model: Transformer, prompts: TokenPrompts | Read, answers: Int[Array, "prompts samples time"]
) -> Float[Array, "prompts samples time"]:
    """Log-probability of each token of the answers, given all before it; float32.

    Raises:
      ValueError: as `answer_streams`.
    """
    streams = answer_streams(model, prompts, answers[..., :-1])
    log_probs = jax.nn.log_softmax(model.unembed(streams))
    return jnp.take_along_axis(log_probs, answers[..., None], axis=-1)[..., 0]


@functools.lru_cache
def transformer_policy(
    graph: nnx.GraphDef, num_new: int, stop_tokens: tuple[int, ...] = ()
) -> Policy:
    """A transformer that answers with at most `num_new` tokens, as a policy.

    Its answers are ``[prompts, samples, num_new]``, 0 after a stop token, and its prompts
    `TokenPrompts`. A prompt is read once for all its answers, and once for `sample` and `log_prob`
    where they are given what `read` made of it. Sampling is at temperature 1 from all of the
    vocabulary, for it is of this distribution that `log_prob` speaks.

    Args:
      graph: static part of the model, from `nnx.split`.
      num_new: tokens of an answer at most, the stop token counted.
      stop_tokens: an answer ends with the first of these.
    """

    def log_prob(
        weights: Weights, prompts: TokenPrompts | Read, answers: Int[Array, "prompts samples time"]
    ) -> LogProbs:
        each = answer_log_probs(nnx.merge(graph, weights), prompts, answers)
        return jnp.sum(jnp.where(counted(answers, stop_tokens), each, 0.0), axis=-1)

    def sample(
        weights: Weights, prompts: TokenPrompts | Read, key: Key[Array, ""], num_samples: int
    ) -> tuple[Int[Array, "prompts samples time"], LogProbs]:
        model = nnx.merge(graph, weights)
        keys = row_keys(key, len(prompts.positions), num_samples)
        settings = sampling(temperature=1.0, stop_tokens=stop_tokens)
        drawn = rollout_from(model, read_prompts(model, prompts), keys, settings, num_new=num_new)
        return drawn.tokens, jnp.sum(drawn.log_probs, axis=-1)

    def read_by(weights: Weights, prompts: TokenPrompts | Read) -> Read:
        return read_prompts(nnx.merge(graph, weights), prompts)

    return Policy(sample, log_prob, read_by)
