"""Several answers to one prompt in one pass of a transformer: the prompt is computed once.

A row is the prompt and, one after the other, its answers. All that works token by token, which is
nearly all the work, runs on such rows; attention alone takes them apart, so that an answer sees its
prompt and itself and no other answer:

    row         prompt prompt prompt | first first | second second
    positions      0      1      2   |   3     4   |    3      4
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from matchbook.gemma.attention import Attend, attention

Rows = tuple[Int[Array, "prompts all_time"], ...]


def branched(
    prompts: tuple[Int[Array, "prompts prompt_time"], ...],
    answers: Int[Array, "prompts samples time"],
) -> Rows:
    """Tokens, positions and segments of prompts with all their answers behind them.

    Args:
      prompts: tokens, positions and segments, padded on the left.
      answers: any number of them to a prompt, of equal width.
    """
    tokens, positions, segments = prompts
    samples, time = answers.shape[1:]
    after = positions[:, -1:] + 1 + jnp.arange(time, dtype=positions.dtype)[None, :]
    behind = (
        answers.reshape(len(answers), samples * time).astype(tokens.dtype),
        jnp.tile(after, (1, samples)),
        jnp.repeat(segments[:, -1:], samples * time, axis=1),
    )
    parts = zip((tokens, positions, segments), behind, strict=True)
    return tuple(jnp.concatenate(pair, axis=1) for pair in parts)


def apart(
    rows: Shaped[Array, "prompts all_time ..."], samples: int, prompt_time: int
) -> Shaped[Array, "rows one_time ..."]:
    """One row for each answer, its prompt before it."""
    prompt, answers = rows[:, :prompt_time], rows[:, prompt_time:]
    time = answers.shape[1] // samples
    answers = answers.reshape(len(rows) * samples, time, *rows.shape[2:])
    return jnp.concatenate([jnp.repeat(prompt, samples, axis=0), answers], axis=1)


def together(
    rows: Shaped[Array, "rows one_time ..."], samples: int, prompt_time: int
) -> Shaped[Array, "prompts all_time ..."]:
    """The inverse of `apart`; of a prompt's copies, which are equal, the first."""
    prompt, answers = rows[::samples, :prompt_time], rows[:, prompt_time:]
    answers = answers.reshape(len(prompt), samples * answers.shape[1], *rows.shape[2:])
    return jnp.concatenate([prompt, answers], axis=1)


def branched_attention(samples: int, prompt_time: int) -> Attend:
    """`attention` for rows of `branched`: its implementations see plain rows, one for each answer.

    Queries of the prompt are attended to once for each answer, and all but the first thrown away.
    """

    def attend(
        q: Float[Array, "prompts all_time heads head_dim"],
        k: Float[Array, "prompts all_time kv_heads head_dim"],
        v: Float[Array, "prompts all_time kv_heads head_dim"],
        *,
        positions: Int[Array, "prompts all_time"],
        segments: Int[Array, "prompts all_time"],
        **options: Any,
    ) -> Float[Array, "prompts all_time heads head_dim"]:
        q, k, v, positions, segments = (
            apart(x, samples, prompt_time) for x in (q, k, v, positions, segments)
        )
        mixed = attention(q, k, v, positions=positions, segments=segments, **options)
        return together(mixed, samples, prompt_time)

    return attend
