"""The cache: cached decoding against the whole sequence at once, and the ring against a loop."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from matchbook.gemma import Gemma2Config, Transformer, cache, decoding
from matchbook.gemma.attention import attention
from matchbook.gemma.decoding import decode, times, unstack
from matchbook.gemma.reading import prefill

CONFIG = Gemma2Config(
    vocab_size=29,
    embed_dim=16,
    num_layers=4,
    num_heads=6,
    num_kv_heads=2,
    head_dim=6,
    mlp_dim=24,
    sliding_window=4,
    attention_softcap=5.0,
    final_softcap=8.0,
    max_context=64,
)
LENGTHS = [9, 3, 1, 12]  # of the prompts: over, under and far under the window of 4
PROMPT, TIME = 12, 54  # columns of the prompts, and in all: 42 tokens past them, 10 windows
TOKENS = np.random.default_rng(0).integers(0, 29, (len(LENGTHS), TIME)).astype(np.int32)


def new_model(config=CONFIG, dtype=jnp.float32):
    """Weights of twice the usual size, so that attention is far from uniform and caps bend."""
    model = Transformer(config, rngs=nnx.Rngs(0), dtype=dtype)
    nnx.update(model, jax.tree.map(lambda w: 2 * w, nnx.state(model)))
    return model


def padded(lengths, columns):
    """Segments and positions of prompts of these lengths in the last of so many columns."""
    segments = np.array([[0] * (columns - n) + [1] * n for n in lengths], np.int32)
    return segments, np.maximum(np.cumsum(segments, axis=1) - 1, 0).astype(np.int32)


def cached_logits(model, tokens, positions, segments, prompt, context):
    """Logits after the columns from `prompt` - 1 on, each from the cache, and the last cache."""
    first, state = prefill(
        model, tokens[:, :prompt], positions[:, :prompt], segments[:, :prompt], context=context
    )
    weights = unstack(model)

    def step(state, column):
        logits, state = decode(weights, state, *column)
        return state, logits

    columns = (tokens[:, prompt:].T, positions[:, prompt:].T)
    state, rest = jax.lax.scan(step, state, columns)
    return jnp.concatenate([first[None], rest]).swapaxes(0, 1), state


@pytest.mark.parametrize("lengths", [LENGTHS, [12] * 4], ids=["mixed lengths", "same length"])
def test_cached_decoding_is_teacher_forcing_far_past_the_window(lengths, decoded):
    segments, positions = padded([n + TIME - PROMPT for n in lengths], TIME)
    found, state, expected = decoded(positions, segments)
    assert np.abs(expected).max() > 2  # of a cap of 8: it bends
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert [slots.keys.shape[2] for slots in state.layers] == [4, TIME, 4, TIME]
    assert sorted(state.local_positions[0].tolist()) == list(
        range(lengths[0] + TIME - PROMPT - 4, lengths[0] + TIME - PROMPT)
    )


@pytest.fixture(scope="module")
def decoded():
    """(cached logits, last cache, logits of the whole sequence) of TOKENS at these places."""
    model = new_model()
    cached = jax.jit(cached_logits, static_argnames=("prompt", "context"))
    whole = jax.jit(lambda model, *args: model(*args))

    def decoded(positions, segments, prompt=PROMPT, context=TIME):
        arrays = [jnp.asarray(x) for x in (TOKENS, positions, segments)]
        found, state = cached(model, *arrays, prompt=prompt, context=context)
        return np.asarray(found), state, np.asarray(whole(model, *arrays))[:, prompt - 1 :]

    return decoded


@pytest.mark.parametrize("rows", [1, 5, decoding.MANY])
def test_a_product_with_a_turned_matrix_is_a_product_with_the_matrix(rows):
    """Few rows become columns, many stay; in bfloat16 the result may be asked for in float32."""
    model = new_model()
    gate = unstack(model).layers[2].gate
    assert gate.matrix.shape == (24, 16)
    x = np.random.default_rng(0).standard_normal((rows, 1, 16)).astype(np.float32)
    expected = x @ np.asarray(model.pairs.local_layer.mlp.gate[...])[1]
    np.testing.assert_allclose(times(jnp.asarray(x), gate), expected, atol=1e-5)
    short = [jnp.asarray(part, jnp.bfloat16) for part in (x, gate.matrix)]
    wide = np.asarray(short[0], np.float32) @ np.asarray(short[1], np.float32).T
    found = times(short[0], decoding.Turned(short[1]), jnp.float32)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wide, atol=1e-4)


def test_only_differences_of_positions_matter_to_the_cache(decoded):
    segments, positions = padded([n + TIME - PROMPT for n in LENGTHS], TIME)
    moved, state, _ = decoded(positions + 1000, segments)
    still, *_ = decoded(positions, segments)
    np.testing.assert_allclose(moved, still, atol=2e-3)
    assert state.local_positions.min() >= 1000


def test_a_row_goes_on_with_its_last_document(decoded):
    """Documents packed before it leave their slots empty, in a prompt longer than the ring."""
    segments = np.ones((4, TIME), np.int32)
    segments[:, 10:] = 2  # the prompts' 12 columns: 10 of one document, 2 of the one that goes on
    positions = np.concatenate([np.arange(10), np.arange(TIME - 10)]).astype(np.int32)
    found, state, expected = decoded(np.tile(positions, (4, 1)), segments)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert state.global_positions[0, :10].tolist() == [cache.EMPTY] * 10


def test_a_ring_is_no_larger_than_the_context():
    wide = dataclasses.replace(CONFIG, sliding_window=40, num_layers=2)
    tokens = jnp.asarray(TOKENS[:, :8])
    segments, positions = (jnp.asarray(x) for x in padded([8, 5, 3, 1], 8))
    run = partial(prefill, new_model(wide), tokens, positions, segments)
    _, state = jax.eval_shape(partial(run, context=11))
    assert [slots.keys.shape for slots in state.layers] == [(4, 2, 11, 6), (4, 2, 11, 6)]
    assert state.local_positions.shape == (4, 11)


def test_the_cache_has_the_activation_dtype():
    model = nnx.eval_shape(lambda: new_model(dtype=jnp.bfloat16))

    def run(model, tokens):
        _, state = prefill(model, tokens, tokens, tokens, context=8)
        return unstack(model), decode(unstack(model), state, tokens[:, 0], tokens[:, 0])

    weights, (logits, state) = jax.eval_shape(run, model, jnp.ones((2, 5), jnp.int32))
    assert {x.dtype for x in jax.tree.leaves(state.layers)} == {jnp.dtype(jnp.bfloat16)}
    assert weights.layers[3].gate.matrix.dtype == weights.embedder.table.dtype == jnp.bfloat16
    assert weights.layers[3].pre_mlp_norm.scale.dtype == logits.dtype == jnp.float32


@pytest.mark.parametrize("slots", [1, 4, 7, 9])
@pytest.mark.parametrize("time", [1, 3, 4, 5, 9])
def test_into_slots_and_write_against_a_loop(time, slots):
    """Column by column, each overwrites the slot of the column `slots` before it."""
    columns = np.arange(10, 10 + time)[None]
    expected = np.full(slots, -1)
    for column, value in enumerate(columns[0]):
        expected[column % slots] = value
    filled = cache.into_slots(jnp.asarray(columns), slots, empty=-1)
    assert filled.tolist() == [expected.tolist()]
    expected[time % slots] = 77
    written = cache.write_positions(filled, jnp.asarray([77]), jnp.asarray(time))
    assert written.tolist() == [expected.tolist()]


@pytest.mark.parametrize("window", [None, 1, 3])
def test_seen_against_a_loop(window):
    stored = np.array([[5, 2, -1, 4], [0, -1, -1, -1], [9, 6, 7, 8]])
    positions = np.array([5, 0, 8])
    expected = [
        [k != -1 and k <= p and (window is None or k > p - window) for k in row]
        for row, p in zip(stored, positions)
    ]
    assert cache.seen(jnp.asarray(stored), jnp.asarray(positions), window).tolist() == expected


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, 2.0)])
def test_one_query_over_shuffled_slots_is_the_last_row_of_attention(window, softcap):
    generator = np.random.default_rng(1)
    time = 7
    q, k, v = (
        jnp.asarray(generator.standard_normal((2, time, heads, 4)), jnp.float32)
        for heads in (6, 2, 2)
    )
    segments, positions = (jnp.asarray(x) for x in padded([7, 5], time))
    options = {"softcap": softcap, "scale": 0.7}
    expected = attention(q, k, v, positions=positions, segments=segments, window=window, **options)[
        :, -1:
    ]
    order = generator.permutation(time)
    slots = cache.fill(k[:, order], v[:, order], time)
    stored = jnp.where(segments == 1, positions, cache.EMPTY)[:, order]
    found = cache.attend(q[:, -1:], slots, cache.seen(stored, positions[:, -1], window), **options)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_samples_of_a_prompt_are_rows_beside_each_other():
    slots = cache.Slots(jnp.arange(4.0).reshape(2, 1, 1, 2), jnp.zeros((2, 1, 1, 2)))
    places = jnp.asarray([[3], [8]])
    repeated = cache.repeat(cache.Cache(jnp.int32(5), places, places, (slots,)), 3)
    assert repeated.columns == 5
    assert repeated.local_positions.tolist() == [[3]] * 3 + [[8]] * 3
    assert repeated.layers[0].keys[:, 0, 0].tolist() == [[0.0, 1.0]] * 3 + [[2.0, 3.0]] * 3
