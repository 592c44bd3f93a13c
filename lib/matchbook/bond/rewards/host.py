"""A reward in plain Python, on texts, inside a compiled step: called back, in batches, cached.

Unusual: what was scored once is never scored again, whatever happens to the step; so if the
function raises, the run resumes from its last checkpoint and what it paid for is not lost.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from matchbook.bond.sequences import TokenPrompts, counted

Numbers = Sequence[int | float | np.floating]
Score = Callable[[list[str], list[str]], Numbers]
Decode = Callable[[list[int]], str]


class HostReward:
    """``(prompts, answers) -> rewards`` by a function of two lists of texts.

    Args:
      score: from prompts and answers, of one length, to as many finite numbers. Called with
        different pairs only, none of which it has scored before, all of a step at once.
      decode: from tokens to text; for prompts all tokens, for answers those before the stop.
      stop_tokens: as the policy's.

    Attributes:
      cached: reward of every pair of texts scored so far.
      calls: calls of `score` so far.

    In a step it raises JAX's runtime error, which quotes what `score` raised; and:

    Raises:
      ValueError: `score` returns another number of rewards, or one that is not finite; names the
        texts.
    """

    def __init__(self, score: Score, decode: Decode, stop_tokens: tuple[int, ...] = ()):
        self.score, self.decode, self.stop_tokens = score, decode, stop_tokens
        self.cached: dict[tuple[str, str], float] = {}
        self.calls = 0

    def __call__(
        self, prompts: TokenPrompts, answers: Int[Array, "prompts samples time"]
    ) -> Float[Array, "prompts samples"]:
        is_text = counted(answers, self.stop_tokens)
        for stop in self.stop_tokens:
            is_text &= answers != stop
        shape = jax.ShapeDtypeStruct(answers.shape[:2], jnp.float32)
        return jax.pure_callback(self._of_tokens, shape, *prompts, answers, is_text)

    def of_texts(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Rewards of prompts and answers as texts."""
        if new := list(dict.fromkeys(pair for pair in pairs if pair not in self.cached)):
            self.calls += 1
            rewards = self.score([prompt for prompt, _ in new], [answer for _, answer in new])
            self.cached.update(zip(new, _checked(new, rewards), strict=True))
        return [self.cached[pair] for pair in pairs]

    def _of_tokens(self, tokens: Any, segments: Any, answers: Any, is_text: Any) -> np.ndarray:
        prompts = self._texts(tokens, np.asarray(segments) > 0)
        shape = answers.shape[:2]
        flat = (np.asarray(x).reshape(-1, answers.shape[2]) for x in (answers, is_text))
        texts = self._texts(*flat)
        pairs = [(prompts[row // shape[1]], text) for row, text in enumerate(texts)]
        return np.asarray(self.of_texts(pairs), np.float32).reshape(shape)

    def _texts(self, tokens: Any, where: Any) -> list[str]:
        return [
            self.decode(row[mask].tolist())
            for row, mask in zip(np.asarray(tokens), np.asarray(where), strict=True)
        ]


def _checked(pairs: list[tuple[str, str]], rewards: Numbers) -> list[float]:
    """The rewards as floats, if there is one for each pair and all are finite."""
    if len(rewards) != len(pairs):
        raise ValueError(
            f"a reward gives one number a pair: expected {len(pairs)}, got {len(rewards)}"
        )
    found = [float(reward) for reward in rewards]
    for (prompt, answer), reward in zip(pairs, found, strict=True):
        if not np.isfinite(reward):
            raise ValueError(
                f"expected a finite reward, got {reward} for the answer {answer!r:.80} to the "
                f"prompt {prompt!r:.80}"
            )
    return found
