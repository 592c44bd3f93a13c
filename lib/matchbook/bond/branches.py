"""Several answers to one prompt in one pass of a transformer: the prompt is computed once.

A row is the prompt and, one after the other, its answers. All that works token by token, which is
nearly all the work, runs on such rows; attention alone takes them apart, so that an answer sees its
prompt and itself and no other answer:

    row         prompt prompt prompt | first first | second second
    positions      0      1      2   |   3     4   |    3      4
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from matchbook.gemma.attention import Attend, attention, visible_between
from matchbook.gemma.attention.dense import dense_between

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


def branched_attention(samples: int, prompt_time: int) -> Attend:
    """`attention` for rows of `branched`: prompts see themselves, answers their prompt and
    themselves.

    Answers are taken to be short: theirs is one dense matrix, [time, prompt_time + time] a head.
    """

    def attend(
        q: Float[Array, "prompts all_time heads head_dim"],
        k: Float[Array, "prompts all_time kv_heads head_dim"],
        v: Float[Array, "prompts all_time kv_heads head_dim"],
        *,
        positions: Int[Array, "prompts all_time"],
        segments: Int[Array, "prompts all_time"],
        window: int | None,
        softcap: int | float | None,
        scale: int | float,
        implementation: str | None = None,
    ) -> Float[Array, "prompts all_time heads head_dim"]:
        of_prompts = attention(
            *(x[:, :prompt_time] for x in (q, k, v)),
            positions=positions[:, :prompt_time],
            segments=segments[:, :prompt_time],
            window=window,
            softcap=softcap,
            scale=scale,
            implementation=implementation,
        )
        time = (q.shape[1] - prompt_time) // samples
        queries = q[:, prompt_time:].reshape(len(q) * samples, time, *q.shape[2:])
        keys, values, place, text = (
            apart(x, samples, prompt_time) for x in (k, v, positions, segments)
        )
        asking = place[:, prompt_time:], text[:, prompt_time:]
        mask = visible_between(asking, (place, text), window)
        of_answers = dense_between(queries, keys, values, mask=mask, softcap=softcap, scale=scale)
        of_answers = of_answers.reshape(len(q), samples * time, *q.shape[2:])
        return jnp.concatenate([of_prompts, of_answers], axis=1)

    return attend
