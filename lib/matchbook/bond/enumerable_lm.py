"""A language model whose every answer can be listed: Gemma 2 over 8 tokens, answers of 5.

The 32,768 answers make the true Best-of-N, every KL and every quantile exact, while the trainer is
the one for real text. A prompt is one token. The reference learns a Markov source; the reward has a
part that a small transformer can learn and a part that none can, so that Best-of-N lies outside
the family and Jeffreys' beta matters (on a family that contains it all betas agree).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from matchbook.bond.policies import LogPmf, Weights
from matchbook.bond.sequences import TokenPrompts
from matchbook.gemma import Gemma2Config, Transformer
from matchbook.gemma.cache import repeat
from matchbook.gemma.decoding import decode, unstack
from matchbook.gemma.reading import prefill

NUM_TOKENS = 8
LENGTH = 5

Table = Float[Array, "prompts answers"]


def config(embed_dim: int = 32, num_layers: int = 2) -> Gemma2Config:
    """Gemma 2 in small: two query heads on one key/value head, local layers that see 3 tokens."""
    return Gemma2Config(
        vocab_size=NUM_TOKENS,
        embed_dim=embed_dim,
        num_layers=num_layers,
        num_heads=2,
        num_kv_heads=1,
        head_dim=embed_dim // 2,
        mlp_dim=4 * embed_dim,
        sliding_window=3,
    )


def new_model(config: Gemma2Config, seed: int) -> tuple[nnx.GraphDef, Weights]:
    """A model's static part and its initial weights, nested dicts of float32 arrays."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    return graph, _initial_weights(config, jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=0)
def _initial_weights(config: Gemma2Config, key: Key[Array, ""]) -> Weights:
    return nnx.to_pure_dict(nnx.state(Transformer(config, rngs=nnx.Rngs(key))))


def prompts(repeats: int = 1) -> TokenPrompts:
    """Each of the 8 prompts, one token long, `repeats` times: ``8 * repeats`` rows."""
    tokens = jnp.tile(jnp.arange(NUM_TOKENS, dtype=jnp.int32), repeats)[:, None]
    return TokenPrompts(tokens, jnp.ones_like(tokens))


def all_answers(num_tokens: int = NUM_TOKENS, length: int = LENGTH) -> Int[Array, "answers time"]:
    """Every answer in the order of its number, the first token being the highest digit."""
    digits = np.arange(num_tokens**length)[:, None] // num_tokens ** np.arange(length)[::-1]
    return jnp.asarray(digits % num_tokens, jnp.int32)


def answer_index(
    answers: Int[Array, "*batch time"], num_tokens: int = NUM_TOKENS
) -> Int[Array, "*batch"]:
    """The place of each answer in `all_answers`."""
    index = jnp.zeros(answers.shape[:-1], jnp.int32)
    for place in range(answers.shape[-1]):
        index = num_tokens * index + answers[..., place].astype(jnp.int32)
    return index


@functools.lru_cache
def log_pmf(graph: nnx.GraphDef, num_tokens: int = NUM_TOKENS, length: int = LENGTH) -> LogPmf:
    """``(weights, prompts) -> [prompts, answers]``: exact log-probabilities of all answers.

    Prompts may have any length. Differentiable. A beginning that answers share is computed once,
    with the cache that decoding uses: 4,681 tokens a prompt, where whole answers would take 20,480.
    """
    tokens = jnp.arange(num_tokens, dtype=jnp.int32)

    def log_probs(weights: Weights, prompts: TokenPrompts) -> Float[Array, "prompts answers"]:
        model, count = nnx.merge(graph, weights), len(prompts.tokens)
        place, width = prompts.positions, prompts.tokens.shape[1]
        layers = unstack(model)
        logits, cache = prefill(
            model, prompts.tokens, place, prompts.segments, context=width + length - 1
        )
        place, found = place[:, -1], jax.nn.log_softmax(logits)[:, :num_tokens]
        for _ in range(length - 1):  # the beginnings so far, each with every token behind it
            cache, place = repeat(cache, num_tokens), jnp.repeat(place, num_tokens) + 1
            logits, cache = decode(layers, cache, jnp.tile(tokens, found.size // num_tokens), place)
            choices = jax.nn.log_softmax(logits)[:, :num_tokens]
            found = (found.reshape(-1, 1) + choices).reshape(count, -1)
        return found

    return log_probs


def reward_table(seed: int, luck: int | float = 0.7) -> Table:
    """Rewards of all answers to all 8 prompts, mean 0 and variance 1 for each prompt; few ties.

    Skill, of variance 1 before scaling, is what a transformer can learn: a score for each pair of
    neighbours (the prompt's token is the first answer token's neighbour), one for each pair of
    tokens two apart, and a bonus where the last token repeats the prompt. Luck is one normal number
    an answer, of standard deviation `luck`: nothing but a table can know it.
    """
    rng = np.random.default_rng(seed)
    answers = np.asarray(all_answers())
    beside = rng.standard_normal((NUM_TOKENS, NUM_TOKENS))
    apart = rng.standard_normal((NUM_TOKENS, NUM_TOKENS))
    tables = []
    for prompt in range(NUM_TOKENS):
        text = np.concatenate([np.full((len(answers), 1), prompt), answers], axis=1)
        skill = beside[text[:, :-1], text[:, 1:]].sum(1) + apart[text[:, :-2], text[:, 2:]].sum(1)
        skill += 2.0 * (text[:, -1] == prompt)
        reward = (skill - skill.mean()) / skill.std() + luck * rng.standard_normal(len(answers))
        tables.append((reward - reward.mean()) / reward.std())
    return jnp.asarray(np.stack(tables), jnp.float32)


def table_reward(table: Table) -> Callable[[Any, Any], Float[Array, "prompts samples"]]:
    """The table as a reward of `TokenPrompts` and answers as tokens."""

    def reward(
        prompts: TokenPrompts, answers: Int[Array, "prompts samples time"]
    ) -> Float[Array, "prompts samples"]:
        return table[prompts.tokens[:, -1:], answer_index(answers)]

    return reward


def markov_transitions(seed: int, sharpness: int | float = 1.0) -> Float[Array, "tokens next"]:
    """Log-probabilities of the next token given the last: a source for the reference to learn."""
    logits = sharpness * np.random.default_rng(seed).standard_normal((NUM_TOKENS, NUM_TOKENS))
    return jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))


def markov_source(
    transitions: Float[Array, "tokens next"],
) -> Callable[[Any, Key[Array, ""], int], Int[Array, "prompts samples time"]]:
    """Answers of the source, as `algorithms.imitation_step` draws them."""

    def source(
        prompts: TokenPrompts, key: Key[Array, ""], num_samples: int
    ) -> Int[Array, "prompts samples time"]:
        last = jnp.repeat(prompts.tokens[:, -1], num_samples)

        def follow(token: Array, key: Key[Array, ""]) -> tuple[Array, Array]:
            token = jax.random.categorical(key, transitions[token]).astype(jnp.int32)
            return token, token

        _, tokens = jax.lax.scan(follow, last, jax.random.split(key, LENGTH))
        return tokens.T.reshape(-1, num_samples, LENGTH)

    return source


def markov_log_pmf(transitions: Float[Array, "tokens next"]) -> Float[Array, "prompts answers"]:
    """Exact log-probabilities of all answers of the source, for the 8 prompts."""
    answers = all_answers()
    within = jnp.sum(transitions[answers[:, :-1], answers[:, 1:]], axis=1)
    return transitions[:, answers[:, 0]] + within[None, :]
