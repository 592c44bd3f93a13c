"""Dense attention and its mask against loops over queries and keys, in float64 NumPy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.gemma.attention import attention, visible

# Two rows of 9: one document; padding, then two documents.
SEGMENTS = np.array([[1] * 9, [0, 0, 1, 1, 1, 1, 2, 2, 2]])
POSITIONS = np.array([np.arange(9), [0, 0, 0, 1, 2, 3, 0, 1, 2]])


def by_loops(q, k, v, *, positions, segments, window, softcap, scale):
    """Attention from its definition: one query, one head, one key at a time."""
    out = np.zeros(q.shape)
    batch, time, heads, _ = q.shape
    for b, t, n in itertools.product(range(batch), range(time), range(heads)):
        shared = n // (heads // k.shape[2])
        weights = {}
        for s in range(time):
            distance = positions[b, t] - positions[b, s]
            if segments[b, t] == 0 or segments[b, s] != segments[b, t] or distance < 0:
                continue
            if window is not None and distance >= window:
                continue
            score = scale * sum(float(x) * float(y) for x, y in zip(q[b, t, n], k[b, s, shared]))
            weights[s] = math.exp(
                score if softcap is None else softcap * math.tanh(score / softcap)
            )
        for s, weight in weights.items():
            out[b, t, n] += weight / sum(weights.values()) * v[b, s, shared]
    return out


def inputs(heads, kv_heads, head_dim=4, time=9, seed=0):
    generator = np.random.default_rng(seed)
    shapes = [(2, time, heads, head_dim)] + 2 * [(2, time, kv_heads, head_dim)]
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


def ours(q, k, v, positions=POSITIONS, segments=SEGMENTS, **options):
    where = {"positions": jnp.asarray(positions), "segments": jnp.asarray(segments)}
    return attention(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), **where, **options)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (4, 1), (6, 2)])
@pytest.mark.parametrize("window", [None, 1, 3, 50])
def test_dense_attention_equals_loops(heads, kv_heads, window):
    q, k, v = inputs(heads, kv_heads)
    for softcap, scale in [(50.0, 0.5), (2.0, 3.0), (None, 12**-0.5)]:
        options = {"window": window, "softcap": softcap, "scale": scale}
        expected = by_loops(q, k, v, positions=POSITIONS, segments=SEGMENTS, **options)
        np.testing.assert_allclose(ours(q, k, v, **options), expected, atol=2e-6)


def test_what_a_query_sees_does_not_depend_on_where_tokens_lie():
    """Shuffling a row shuffles the answer: order in memory is nothing, positions are everything."""
    q, k, v = inputs(4, 2)
    options = {"window": 3, "softcap": 50.0, "scale": 0.5}
    order = np.random.default_rng(0).permutation(9)
    shuffled = [x[:, order] for x in (q, k, v, POSITIONS, SEGMENTS)]
    np.testing.assert_allclose(
        ours(*shuffled, **options), ours(q, k, v, **options)[:, order], atol=1e-6
    )


def test_a_window_counts_the_token_itself():
    row = jnp.arange(5)[None]
    mask = visible(row, jnp.ones_like(row), 3)
    assert mask.sum(-1).tolist() == [[1, 2, 3, 3, 3]]
    assert mask[0, 4].tolist() == [False, False, True, True, True]
    assert visible(row, jnp.ones_like(row), 1)[0].tolist() == np.eye(5, dtype=bool).tolist()
    assert visible(row, jnp.ones_like(row), None).sum(-1).tolist() == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize("window", [None, 2])
def test_documents_and_padding_never_see_each_other(window):
    mask = np.asarray(visible(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS), window))[1]
    assert not mask[:2].any()  # padding sees nothing
    assert not mask[:, :2].any()  # nothing sees padding
    assert not mask[6:, 2:6].any()
    assert not mask[2:6, 6:].any()
    counts = [1, 2, 2, 2, 1, 2, 2] if window else [1, 2, 3, 4, 1, 2, 3]
    assert mask[2:].sum(-1).tolist() == counts


def test_padding_gives_zeros_and_finite_gradients():
    q, k, v = (jnp.asarray(1e4 * x) for x in inputs(4, 2))
    options = {"window": 3, "softcap": 50.0, "scale": 0.5}
    assert (ours(q, k, v, **options)[1, :2] == 0).all()

    def loss(q, k, v):
        return jnp.sum(ours(q, k, v, **options) ** 2)

    for gradient in jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v):
        assert jnp.isfinite(gradient).all()
        assert (gradient[1, :2] == 0).all()
    nothing = ours(q, k, v, segments=np.zeros_like(SEGMENTS), **options)
    assert (nothing == 0).all()


def test_scores_are_capped_before_the_mask():
    """A cap of 1e-3 levels all scores: a mean over visible keys, and nothing of the others."""
    q, k, v = inputs(2, 2)
    levelled = ours(100 * q, k, v, window=2, softcap=1e-3, scale=1.0)
    expected = v.astype(np.float64)
    expected[0, 1:] = (v[0, 1:] + v[0, :-1]) / 2
    np.testing.assert_allclose(levelled[0], expected[0], atol=3e-3)


def test_bfloat16_inputs_keep_float32_softmax():
    q, k, v = inputs(4, 2, head_dim=16)
    options = {"window": None, "softcap": 50.0, "scale": 0.25}
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    half = ours(*rounded, **options)
    assert half.dtype == jnp.bfloat16
    full = ours(*(x.astype(jnp.float32) for x in rounded), **options)
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.02)
