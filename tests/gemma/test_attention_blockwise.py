"""Attention in blocks against the definition: values, gradients, what it visits, what it holds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.gemma.attention.blocks import tokens_by_block
from matchbook.gemma.attention.blocks import visits as eager_visits
from matchbook.gemma.attention.blockwise import blockwise_attention
from matchbook.gemma.attention.dense import dense_attention
from matchbook.gemma.attention.masks import visible

visits = jax.jit(eager_visits)
TIME, BLOCK = 21, 4
# One document; padding on the left, then two documents; nothing but padding.
SEGMENTS = np.array([[1] * 21, [0] * 3 + [1] * 8 + [2] * 10, [0] * 21])
POSITIONS = np.array([[*range(21)], [0] * 3 + [*range(8)] + [*range(10)], [0] * 21])
EDGES = [None, 1, 2, 3, 4, 5, 6, 7, 8, 9, 50]  # around one block and two; beyond the row


def inputs(heads, kv_heads, dtype=jnp.float32, scale=1.0):
    """Queries, keys, values, and weights that make one number of the output."""
    generator = np.random.default_rng(heads + 10 * kv_heads)
    shapes = [(3, TIME, n, 8) for n in (heads, kv_heads, kv_heads, heads)]
    return [jnp.asarray(scale * generator.standard_normal(x), dtype) for x in shapes]


def value_and_gradients(attention, arrays, positions=POSITIONS, segments=SEGMENTS, **options):
    """The output, and the gradients of its weighted sum in q, k and v."""
    *qkv, weights = arrays
    where = {"positions": jnp.asarray(positions), "segments": jnp.asarray(segments)}

    def loss(q, k, v):
        out = attention(q, k, v, **where, **options)
        return jnp.sum((out * weights).astype(jnp.float32)), out

    gradients, out = jax.grad(loss, (0, 1, 2), has_aux=True)(*qkv)
    return out, *gradients


def assert_equal(ours, dense, *, atol):
    for name, x, y in zip(("out", "d_q", "d_k", "d_v"), ours, dense, strict=True):
        assert x.dtype == y.dtype
        x, y = (np.asarray(z, np.float32) for z in (x, y))
        np.testing.assert_allclose(x, y, atol=atol, rtol=1e-5, err_msg=name)


def both(arrays, **options):
    ours = value_and_gradients(blockwise_attention, arrays, block=BLOCK, **options)
    return ours, value_and_gradients(dense_attention, arrays, **options)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (4, 1)])
def test_values_and_gradients_equal_dense(heads, kv_heads):
    arrays = inputs(heads, kv_heads)
    for softcap, scale in ((5.0, 0.7), (None, 0.35))[: 2 if heads == 4 else 1]:
        for window in EDGES:
            options = {"window": window, "softcap": softcap, "scale": scale}
            assert_equal(*both(arrays, **options), atol=2e-5)


def test_any_order_of_tokens_is_right():
    """Shuffled rows, gaps in the positions, and documents in pieces: only visits change."""
    arrays, generator = inputs(4, 2), np.random.default_rng(1)
    for window in (3, 9, None):
        for _ in range(5):
            segments = generator.integers(-1, 2, (3, TIME))
            positions = generator.permuted(np.arange(0, 2 * TIME, 2)[None].repeat(3, 0), axis=1)
            options = {"window": window, "softcap": 5.0, "scale": 0.7}
            pair = both(arrays, positions=positions, segments=segments, **options)
            assert_equal(*pair, atol=2e-5)


def test_bfloat16_accumulates_in_float32():
    """As near to the float32 answer as dense attention in bfloat16 is, up to a quarter more."""
    half = inputs(4, 2, jnp.bfloat16)
    for window in (5, None):
        options = {"window": window, "softcap": 50.0, "scale": 0.35}
        ours, dense = both(half, **options)
        exact = value_and_gradients(
            dense_attention, [x.astype(jnp.float32) for x in half], **options
        )
        for x, y, z in zip(ours, dense, exact, strict=True):
            assert x.dtype == jnp.bfloat16
            errors = [np.abs(np.asarray(w, np.float32) - z).max() for w in (x, y)]
            assert errors[0] <= 1.25 * errors[1] + 1e-3
            assert errors[0] < 0.05


def test_padding_gives_zeros_and_huge_scores_stay_finite():
    arrays = inputs(4, 2, scale=1e4)
    for softcap in (5.0, None):
        options = {"window": 3, "softcap": softcap, "scale": 0.7 if softcap else 0.35}
        results = value_and_gradients(blockwise_attention, arrays, block=BLOCK, **options)
        for x in results:
            assert jnp.isfinite(x).all()
            assert (x[1, :3] == 0).all()
            assert (x[2] == 0).all()


def test_a_row_shorter_than_a_block_and_the_default_block():
    arrays = inputs(4, 2)
    options = {"window": 4, "softcap": 5.0, "scale": 0.7}
    ours = value_and_gradients(blockwise_attention, arrays, **options)
    assert_equal(ours, value_and_gradients(dense_attention, arrays, **options), atol=2e-5)


def test_keys_beyond_the_window_are_not_touched():
    """NaN in a visited block would spread, since 0 * NaN is NaN; in the others it cannot."""
    q, k, v, _ = inputs(4, 2)
    where = {"positions": jnp.asarray(POSITIONS), "segments": jnp.asarray(SEGMENTS)}
    options = {"window": 4, "softcap": 5.0, "scale": 0.7, "block": BLOCK} | where
    clean = blockwise_attention(q, k, v, **options)
    spoilt = (x.at[:, :12].set(jnp.nan) for x in (k, v))
    np.testing.assert_array_equal(blockwise_attention(q, *spoilt, **options)[:, 16:], clean[:, 16:])


@pytest.mark.parametrize("window", [1, 2, 7, 8, 9, 10, 17, 18, 500, None])
def test_visits_of_a_row_in_order(window):
    """ceil((window - 1) / block) + 1 key blocks at most, whatever padding stands on the left."""
    limit = jnp.int32(2**31 - 1 if window is None else window)
    place = jnp.arange(64)[None]
    for padding in (0, 3, 8):
        segments = (place >= padding).astype(jnp.int32)
        first, stop = visits(tokens_by_block(place - padding, segments, 8), limit)
        block = np.arange(8)
        reach = 64 if window is None else -(-(window - 1) // 8)
        np.testing.assert_array_equal(stop, np.where(block < padding // 8, first, block + 1))
        expected = np.maximum(block - reach, padding // 8)
        np.testing.assert_array_equal(first[padding // 8 :], expected[padding // 8 :])


def test_a_packed_row_visits_its_own_documents():
    """Also where a block holds the end of one and the start of the next, and in a window."""
    segments = jnp.repeat(jnp.asarray([1, 2, 0]), jnp.asarray([20, 32, 12]))[None]
    positions = jnp.concatenate([jnp.arange(20), jnp.arange(32), jnp.zeros(12, jnp.int32)])[None]
    tokens = tokens_by_block(positions, segments, 8)
    first, stop = visits(tokens, jnp.int32(1000))
    assert first[:7].tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert stop[:7].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert stop[7] == first[7]
    first, stop = visits(tokens, jnp.int32(4))
    assert first[:7].tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert stop[:7].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_every_visible_pair_is_visited():
    generator = np.random.default_rng(2)
    for window, ordered in itertools.product((1, 2, 4, 6, 30), (True, False)):
        segments, positions = generator.integers(0, 3, (2, 24)), generator.integers(0, 24, (2, 24))
        if ordered:  # in its documents, with gaps
            segments, positions = np.sort(segments), np.cumsum(positions % 2 + 1, axis=1)
        segments, positions = jnp.asarray(segments), jnp.asarray(positions)
        first, stop = visits(tokens_by_block(positions, segments, 4), jnp.int32(window))
        _, query, key = np.nonzero(np.asarray(visible(positions, segments, window)))
        assert query.size
        assert (np.asarray(first)[query // 4] <= key // 4).all()
        assert (key // 4 < np.asarray(stop)[query // 4]).all()


def temporary_bytes(attention, time, *, backward):
    """What XLA reserves beside inputs and outputs."""
    wide, narrow = (jax.ShapeDtypeStruct((1, time, n, 16), jnp.float32) for n in (4, 2))
    row = jax.ShapeDtypeStruct((1, time), jnp.int32)

    def forward(q, k, v, positions, segments):
        where = {"positions": positions, "segments": segments}
        return attention(q, k, v, **where, window=None, softcap=50.0, scale=0.25)

    def gradients(q, k, v, *rows):
        return jax.grad(lambda *qkv: forward(*qkv, *rows).sum(), (0, 1, 2))(q, k, v)

    jitted = jax.jit(gradients if backward else forward)
    compiled = jitted.lower(wide, narrow, narrow, row, row).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("backward", [False, True])
def test_memory_is_linear_in_time(backward):
    half, full = (
        temporary_bytes(blockwise_attention, time, backward=backward) for time in (1024, 2048)
    )
    dense = temporary_bytes(dense_attention, 2048, backward=backward)
    assert full <= 0.25 * dense
    assert full <= 2 * half


def test_forward_mode_is_refused():
    q, k, v, _ = inputs(2, 2)
    where = {"positions": jnp.asarray(POSITIONS), "segments": jnp.asarray(SEGMENTS)}

    def of_q(q):
        return blockwise_attention(q, k, v, **where, window=3, softcap=None, scale=1.0)

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(of_q, (q,), (q,))
