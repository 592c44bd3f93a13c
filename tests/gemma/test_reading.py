"""Reading prompts once and going on from them, against whole rows through the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from matchbook.gemma import Gemma2Config, Transformer
from matchbook.gemma.cache import grow
from matchbook.gemma.model import REMAT
from matchbook.gemma.reading import go_on, prefill, read

PROMPT, SAMPLES, TIME = 6, 3, 4
LENGTHS = (6, 1, 4)


def new_model(window, **options):
    """Weights of twice the usual size, so that attention is far from uniform and caps bend."""
    config = Gemma2Config(
        vocab_size=29,
        embed_dim=16,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=32,
        sliding_window=window,
        attention_softcap=5.0,
    )
    model = Transformer(config, rngs=nnx.Rngs(0), **options)
    nnx.update(model, jax.tree.map(lambda w: 2 * w, nnx.state(model)))
    return model


def prompts():
    """Tokens, positions and segments, padded on the left."""
    segments = np.array([[0] * (PROMPT - n) + [1] * n for n in LENGTHS], np.int32)
    positions = np.maximum(np.cumsum(segments, axis=1) - 1, 0).astype(np.int32)
    tokens = np.random.default_rng(0).integers(0, 29, segments.shape)
    return tuple(map(jnp.asarray, (tokens, positions, segments)))


TEXTS = jnp.asarray(np.random.default_rng(1).integers(0, 29, (len(LENGTHS), SAMPLES, TIME)))


def in_parts(graph, weights):
    """Streams from the end of the prompt on: read once, all texts together."""
    model = nnx.merge(graph, weights)
    found = read(model, *prompts())
    ends = jnp.broadcast_to(found.stream[:, None, None], (len(LENGTHS), SAMPLES, 1, 16))
    return jnp.concatenate([ends, go_on(model, found, TEXTS)], axis=2)


def in_whole_rows(graph, weights):
    """The same from one row for each text, its prompt before it."""
    repeated = (jnp.repeat(part, SAMPLES, axis=0) for part in prompts())
    tokens, positions, segments = repeated
    behind = positions[:, -1:] + 1 + jnp.arange(TIME, dtype=jnp.int32)[None]
    row = (
        jnp.concatenate([tokens, TEXTS.reshape(-1, TIME)], axis=1),
        jnp.concatenate([positions, behind], axis=1),
        jnp.concatenate([segments, jnp.ones_like(behind)], axis=1),
    )
    streams = nnx.merge(graph, weights).hidden(*row)[:, PROMPT - 1 :]
    return streams.reshape(len(LENGTHS), SAMPLES, TIME + 1, -1)


def streams_and_gradient(function, model):
    """A linear function of the streams has a gradient that misses none of them."""
    graph, weights = nnx.split(model)

    def total(weights):
        streams = function(graph, weights)
        shares = jnp.cos(jnp.arange(streams.size, dtype=jnp.float32)).reshape(streams.shape)
        return jnp.sum(shares * streams), streams

    gradient, streams = jax.jit(jax.grad(total, has_aux=True))(weights)
    return streams, jax.tree.leaves(gradient)


def agree(one, other):
    np.testing.assert_allclose(one[0], other[0], atol=2e-5)
    for found, expected in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("window", [2, PROMPT + 2])
def test_texts_go_on_as_if_each_had_read_its_prompt_itself(window):
    model = new_model(window)
    agree(*(streams_and_gradient(function, model) for function in (in_parts, in_whole_rows)))


@pytest.fixture(scope="module")
def plain():
    """Nothing is computed again."""
    return streams_and_gradient(in_parts, new_model(3))


@pytest.mark.parametrize("remat", [name for name in REMAT if name != "none"])
def test_what_is_computed_again_changes_no_number(remat, plain):
    agree(streams_and_gradient(in_parts, new_model(3, remat=remat, unroll=2)), plain)


@pytest.mark.parametrize("window", [3, PROMPT, PROMPT + 2, 64])
def test_a_grown_cache_is_one_that_had_room_from_the_start(window):
    model, more = new_model(window), 4
    grown = grow(read(model, *prompts()).cache, window, more)
    _, roomy = prefill(model, *prompts(), context=PROMPT + more)
    for one, other in zip(jax.tree.leaves(grown), jax.tree.leaves(roomy), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_text_of_nothing_is_no_text():
    model = new_model(3)
    assert go_on(model, read(model, *prompts()), TEXTS[:, :, :0]).shape == (3, SAMPLES, 0, 16)
