"""Splash and tokamax against the definition, on a CPU: what they compute, and what they refuse.

Splash runs in Pallas' interpreter. Tokamax runs its plain XLA implementation where it is installed;
elsewhere a stand-in written from its documentation shows that its arguments mean what we say.
"""

import itertools
import sys
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.gemma.attention import splash, tokamax
from matchbook.gemma.attention.dense import dense_attention
from matchbook.gemma.attention.places import in_order, only_what_is_asked, require_order

TIME = 200
# Padding on the left, then two documents; one document, then padding on the right.
SEGMENTS = np.stack([np.repeat([0, 1, 2], [7, 133, 60]), np.repeat([1, 0], [190, 10])])
POSITIONS = np.stack([np.r_[np.zeros(7, int), :133, :60], np.r_[:190, np.zeros(10, int)]])
OUT_OF_ORDER = {"positions": jnp.asarray([[0, 1, 3, 4]]), "segments": jnp.ones((1, 4), jnp.int32)}


def where():
    return {"positions": jnp.asarray(POSITIONS), "segments": jnp.asarray(SEGMENTS)}


def inputs(heads, kv_heads, dtype=jnp.float32):
    generator = np.random.default_rng(0)
    shapes = [(2, TIME, n, 8) for n in (heads, kv_heads, kv_heads, heads)]
    return [jnp.asarray(generator.standard_normal(shape), dtype) for shape in shapes]


def assert_equals_dense(attention, heads, kv_heads, window, softcap):
    *qkv, weights = inputs(heads, kv_heads)

    def value_and_gradients(function):
        def loss(q, k, v):
            out = function(q, k, v, **where(), window=window, softcap=softcap, scale=0.5)
            return jnp.sum(out * weights), out

        run = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
        gradients, out = run(*qkv)
        return out, *gradients

    for ours, dense in zip(value_and_gradients(attention), value_and_gradients(dense_attention)):
        np.testing.assert_allclose(ours, dense, atol=3e-5)


def interpreted(*arrays, **options):
    return splash.splash_attention(*arrays, **options, interpret=True)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "window", "softcap"),
    [(2, 2, None, 5.0), (2, 1, 127, 5.0), (4, 2, 128, None), (4, 1, 129, 5.0)],
)
def test_splash_equals_dense(monkeypatch, heads, kv_heads, window, softcap):
    monkeypatch.setattr(splash, "LARGEST_BLOCK", 128)  # two blocks, the second one padded
    assert_equals_dense(interpreted, heads, kv_heads, window, softcap)


def test_splash_keeps_bfloat16():
    *qkv, _ = inputs(2, 1, jnp.bfloat16)
    options = where() | {"window": 50, "softcap": 50.0, "scale": 0.25}
    ours, dense = interpreted(*qkv, **options), dense_attention(*qkv, **options)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), dense.astype(jnp.float32), atol=0.03)


def test_splash_refuses_what_it_cannot_do():
    q, k, v, _ = inputs(4, 2)
    options = where() | {"window": None, "softcap": None, "scale": 0.5}
    with pytest.raises(ValueError, match="window of at least 1, got 0"):
        interpreted(q, k, v, **options | {"window": 0})
    with pytest.raises(ValueError, match="multiple of kv_heads=2, got 3"):
        interpreted(q[:, :, :3], k, v, **options)
    with pytest.raises(ValueError, match=r"'splash'.*got others in row 0.*'blockwise'"):
        interpreted(q[:1, :4], k[:1, :4], v[:1, :4], **options | OUT_OF_ORDER)
    with pytest.raises(ValueError, match="interpret mode"):
        splash.splash_attention(q, k, v, **options)


def documented(q, k, v, *, mask, scale, is_causal, local_window_size, logits_soft_cap, **_):
    """`tokamax.dot_product_attention` as its documentation has it, for one implementation."""
    time, groups = q.shape[1], q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))
    scores = scale * jnp.einsum("btnh,bsnh->bnts", q, k)
    if logits_soft_cap is not None:
        scores = logits_soft_cap * jnp.tanh(scores / logits_soft_cap)
    behind = np.arange(time)[:, None] - np.arange(time)[None]
    allowed = behind >= 0 if is_causal else np.ones((time, time), bool)
    if local_window_size is not None:
        before, after = local_window_size
        allowed &= (behind <= before) & (behind >= -after)
    scores = jnp.where(mask & jnp.asarray(allowed)[None, None], scores, -jnp.inf)
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores, axis=-1), v)


@pytest.fixture(params=["stand-in", "installed"])
def package(request, monkeypatch):
    if request.param == "installed":
        pytest.importorskip("tokamax")
        # Inside, it leans on promotion; its backward pass is traced after our function returned.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            yield
    else:
        stand_in = ModuleType("tokamax")
        stand_in.dot_product_attention = documented
        monkeypatch.setitem(sys.modules, "tokamax", stand_in)
        yield


def plain(*arrays, **options):
    return tokamax.tokamax_attention(*arrays, **options, kernel="xla")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("heads", "kv_heads", "window", "softcap"),
    [(2, 2, None, 5.0), (4, 2, 16, None), (4, 1, 17, 5.0), (4, 1, 1, 5.0), (4, 1, 500, 5.0)],
)
def test_tokamax_equals_dense(heads, kv_heads, window, softcap):
    assert_equals_dense(plain, heads, kv_heads, window, softcap)


@pytest.mark.usefixtures("package")
def test_tokamax_refuses_what_it_cannot_do(monkeypatch):
    q, k, v, _ = inputs(4, 2)
    options = where() | {"window": None, "softcap": None, "scale": 0.5}
    with pytest.raises(ValueError, match=r"expected a Hopper or Blackwell GPU, got cpu"):
        tokamax.tokamax_attention(q, k, v, **options)
    monkeypatch.setattr(tokamax, "on_supported_gpu", lambda: True)
    with pytest.raises(ValueError, match="expected bfloat16 or float16, got float32"):
        tokamax.tokamax_attention(q, k, v, **options)
    with pytest.raises(ValueError, match=r"'tokamax'.*got others in row 0.*'blockwise'"):
        plain(q[:1, :4], k[:1, :4], v[:1, :4], **options | OUT_OF_ORDER)


def test_tokamax_names_the_extra_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokamax", None)
    q, k, v, _ = inputs(4, 2)
    with pytest.raises(ImportError, match="extra 'tokamax'"):
        tokamax.tokamax_attention(q, k, v, **where(), window=None, softcap=None, scale=0.5)


def in_order_by_loops(positions, segments):
    """Two tokens of a document are as far apart in the row as in position, with it in between."""
    for s, t in itertools.combinations(range(len(segments)), 2):
        if segments[s] and segments[s] == segments[t]:
            if positions[t] - positions[s] != t - s:
                return False
            if any(segments[s:t] != segments[s]):
                return False
    return True


def test_in_order_equals_loops():
    generator = np.random.default_rng(0)
    segments = generator.integers(0, 3, (500, 6))
    segments[:250].sort(axis=1)  # else hardly any row is in order
    place = np.broadcast_to(np.arange(6), segments.shape)
    first = np.argmax(segments[:, :, None] == segments[:, None, :], axis=2)
    positions = place - first + (generator.random(segments.shape) < 0.05)
    found = np.asarray(in_order(jnp.asarray(positions), jnp.asarray(segments)))
    expected = [in_order_by_loops(*row) for row in zip(positions, segments)]
    np.testing.assert_array_equal(found, expected)
    assert 50 < found.sum() < 450


def test_rows_out_of_order_are_nan_under_jit_and_refused_outside():
    positions = jnp.asarray([[0, 0, 1, 2], [0, 1, 3, 4], [0, 1, 0, 1]])
    segments = jnp.asarray([[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 2, 2]])
    with pytest.raises(ValueError, match="row 1"):
        require_order(positions, segments, "splash")

    @jax.jit
    def masked(out, positions, segments):
        require_order(positions, segments, "splash")
        return only_what_is_asked(out, positions, segments)

    out = masked(jnp.ones((3, 4, 1, 1)), positions, segments)[:, :, 0, 0]
    np.testing.assert_array_equal(out, [[0, 1, 1, 1], [np.nan] * 4, [1, 1, 1, 1]])
