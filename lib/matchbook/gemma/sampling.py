"""The next token from logits, greedy or drawn at a temperature, top-k and top-p, and its log-prob.

Unusual: what is drawn from is cut and heated, what is reported is not: log-probabilities are those
of the model itself at temperature 1, over all rows of its table, as a training forward pass gives
them. Settings are arrays, so that another temperature does not compile again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Sampling(NamedTuple):
    """How tokens are chosen and when a row stops; made by `sampling`.

    None stands for no such restriction, and `temperature` None for greedy.
    """

    temperature: Float[Array, ""] | None
    top_k: Int[Array, ""] | None
    top_p: Float[Array, ""] | None
    stop_tokens: Int[Array, " stops"]


def sampling(
    temperature: int | float = 0.0,
    top_k: int | None = None,
    top_p: int | float | None = None,
    stop_tokens: Sequence[int] = (),
) -> Sampling:
    """Checked settings.

    Args:
      temperature: logits are divided by it; 0 takes the most likely token, whatever the rest says.
      top_k: only the k most likely tokens are drawn from.
      top_p: only the smallest set of most likely tokens with at least this probability is, after
        temperature and top-k. Tokens as likely as the last one of a set belong to it too.
      stop_tokens: a row ends with the first of these, which it keeps.

    Raises:
      ValueError: a temperature that is negative or not finite, `top_k` below 1, `top_p` outside
        (0, 1].
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(
            f"temperature: expected 0 (greedy) or a positive number, got {temperature}"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: expected at least 1, or None for all tokens, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected a probability in (0, 1], or None, got {top_p}")
    drawn = temperature > 0
    return Sampling(
        temperature=jnp.float32(temperature) if drawn else None,
        top_k=jnp.int32(min(top_k, 2**31 - 1)) if drawn and top_k is not None else None,
        top_p=jnp.float32(top_p) if drawn and top_p is not None and top_p < 1 else None,
        stop_tokens=jnp.asarray(tuple(stop_tokens), jnp.int32),
    )


def row_keys(
    key: Key[Array, ""], num_prompts: int, num_samples: int
) -> Key[Array, "prompts samples"]:
    """A key for each sample of each prompt, which depends on the two places alone.

    So a row draws the same in a larger batch, and more samples leave the first ones as they are.
    """

    def of_prompt(prompt: Array) -> Array:
        prompt_key = jax.random.fold_in(key, prompt)
        return jax.vmap(lambda sample: jax.random.fold_in(prompt_key, sample))(
            jnp.arange(num_samples)
        )

    return jax.vmap(of_prompt)(jnp.arange(num_prompts))


def restrict(
    logits: Float[Array, "batch vocab"], settings: Sampling
) -> Float[Array, "batch vocab"]:
    """Logits over the temperature, -inf for tokens outside top-k and top-p; not for greedy."""
    assert settings.temperature is not None
    heated = logits / settings.temperature
    if settings.top_k is None and settings.top_p is None:
        return heated
    ordered = jnp.sort(heated, axis=-1, descending=True)
    last = jnp.full((logits.shape[0],), logits.shape[1] - 1)
    if settings.top_k is not None:
        last = jnp.minimum(last, settings.top_k - 1)
    if settings.top_p is not None:
        kept = ordered >= jnp.take_along_axis(ordered, last[:, None], axis=-1)
        probabilities = jax.nn.softmax(jnp.where(kept, ordered, -jnp.inf), axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        last = jnp.minimum(last, jnp.sum(before < settings.top_p, axis=-1) - 1)
    threshold = jnp.take_along_axis(ordered, last[:, None], axis=-1)
    return jnp.where(heated >= threshold, heated, -jnp.inf)


def choose(
    logits: Float[Array, "batch vocab"],
    keys: Key[Array, " batch"],
    settings: Sampling,
    num_tokens: int,
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    """The next token of each row, and its log-probability under the model.

    Args:
      logits: float32, of the model.
      keys: one for each row; not used for greedy.
      settings: see `sampling`.
      num_tokens: ids from here on, the padding of the table, are never chosen. They stay in the
        normaliser of log-probabilities, as they are in that of a training loss.
    """
    allowed = logits[:, :num_tokens]
    if settings.temperature is None:
        tokens = _argmax(allowed)
    else:  # the largest of logits with Gumbel noise is a draw from their softmax
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (num_tokens,), jnp.float32))(keys)
        tokens = _argmax(restrict(allowed, settings) + noise)
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return tokens, chosen - jax.nn.logsumexp(logits, axis=-1)


def _argmax(x: Float[Array, "batch vocab"]) -> Int[Array, " batch"]:
    """The first of the largest, as two plain reductions: on CPU a sixth of the time of argmax."""
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    last = x.shape[1] - 1
    return jnp.min(jnp.where(x == jnp.max(x, axis=-1, keepdims=True), places, last), axis=-1)
