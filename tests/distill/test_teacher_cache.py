"""The teacher cache: its bucket by hand in float64; a lower bound of every divergence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp, rel_entr

from matchbook import divergences
from matchbook.distill import teacher_cache
from matchbook.distill.chunked import chunked_distillation_loss
from matchbook.distill.teacher_cache import TopK, top_k, top_k_loss
from matchbook.gemma import Gemma2Config

TOKENS, VOCAB, EMBED, TEACHER_EMBED = 9, 17, 3, 5
CAP, TEACHER_CAP = 4.0, 6.0
DIVERGENCES = {"forward_kl": None, "backward_kl": None, "jensen_shannon": 0.3}


def example(seed=0):
    random = np.random.default_rng(seed)
    shapes = {
        "hidden": (TOKENS, EMBED),
        "table": (VOCAB, EMBED),
        "teacher_hidden": (TOKENS, TEACHER_EMBED),
        "teacher_table": (VOCAB, TEACHER_EMBED),
    }
    x = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return x | {"where": random.random(TOKENS) < 0.7}


def log_probs_by_hand(x):
    """The teacher's and the student's, in float64."""
    x = {name: values.astype(np.float64) for name, values in x.items()}
    teacher = TEACHER_CAP * np.tanh(x["teacher_hidden"] @ x["teacher_table"].T / TEACHER_CAP)
    student = CAP * np.tanh(x["hidden"] @ x["table"].T / CAP)
    return log_softmax(teacher, -1), log_softmax(student, -1)


def bucket_by_hand(x, k):
    """Forward KL over the k best and one bucket, summed over the tokens that count."""
    total = 0.0
    for log_p, log_q, counts in zip(*log_probs_by_hand(x), x["where"], strict=True):
        kept = np.argsort(-log_p)[:k]
        p, q = np.exp(log_p[kept]), np.exp(log_q[kept])
        p, q = np.append(p, 1 - p.sum()), np.append(q, 1 - q.sum())
        total += counts * rel_entr(p, q)[: k + (k < VOCAB)].sum()
    return total


@functools.partial(jax.jit, static_argnames=("k", "chunk_size"))
def answers(x, k=VOCAB, chunk_size=4):
    hidden, table = x["teacher_hidden"], x["teacher_table"]
    return top_k(hidden, table, k, softcap=TEACHER_CAP, chunk_size=chunk_size)


@functools.partial(jax.jit, static_argnames=("name", "chunk_size"))
def loss_and_gradients(x, cached, name="forward_kl", chunk_size=4):
    divergence = divergences.by_name(name, DIVERGENCES[name])

    def loss(hidden, table):
        return top_k_loss(
            hidden, table, cached, x["where"], divergence, softcap=CAP, chunk_size=chunk_size
        )

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(x["hidden"], x["table"])


@functools.partial(jax.jit, static_argnames="name")
def full(x, name="forward_kl"):
    def loss(hidden, table):
        return chunked_distillation_loss(
            **x | {"hidden": hidden, "table": table},
            divergence=divergences.by_name(name, DIVERGENCES[name]),
            softcap=CAP,
            teacher_softcap=TEACHER_CAP,
        )

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(x["hidden"], x["table"])


def test_what_is_kept_is_the_teachers_own():
    x = example()
    log_p, _ = log_probs_by_hand(x)
    cached = answers(x, k=6)
    assert cached.ids.shape == cached.logits.shape == (TOKENS, 6)
    np.testing.assert_array_equal(cached.ids, np.argsort(-log_p, -1)[:, :6])
    normalizer = np.asarray(cached.log_normalizer)
    kept = np.asarray(cached.logits) - normalizer[:, None]
    np.testing.assert_allclose(kept, np.sort(log_p, -1)[:, ::-1][:, :6], rtol=1e-6, atol=1e-6)
    rest = logsumexp(np.sort(log_p, -1)[:, :-6], -1)
    np.testing.assert_allclose(np.asarray(cached.log_rest) - normalizer, rest, rtol=1e-6, atol=1e-6)
    # One token at a time, as a batch of rows, and the start of a longer list: the same.
    rows = answers(x | {"teacher_hidden": x["teacher_hidden"][None]}, k=6)
    for other in (
        answers(x, k=6, chunk_size=1),
        answers(x, k=VOCAB).first(6),
        TopK(*(values[0] for values in rows)),
    ):
        for got, expected in zip(other, cached, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 4, VOCAB - 1, VOCAB])
def test_value_and_gradients_are_the_bucket_by_hand(k):
    x = example()
    (total, count), gradients = loss_and_gradients(x, answers(x).first(k))
    assert float(total) == pytest.approx(bucket_by_hand(x, k), rel=1e-5)
    assert int(count) == x["where"].sum()
    for name, gradient in zip(("hidden", "table"), gradients, strict=True):
        double = {key: np.asarray(value, np.float64) for key, value in x.items() if key != "where"}
        double["where"] = x["where"]
        difference, step = np.zeros(x[name].shape), 1e-6
        for place in np.ndindex(difference.shape):
            ends = []
            for sign in (1, -1):
                moved = double[name].copy()
                moved[place] += sign * step
                ends.append(bucket_by_hand(double | {name: moved}, k))
            difference[place] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient, difference, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_lower_bound_that_grows_with_k_to_the_whole(name):
    for seed in range(8):
        x = example(seed)
        x["teacher_hidden"] *= 1 + seed % 4  # up to a teacher that is sure
        cached = answers(x)
        (whole, _), whole_gradients = full(x, name)
        bounds = []
        for k in (1, 4, VOCAB - 1, VOCAB):
            (bound, _), gradients = loss_and_gradients(x, cached.first(k), name)
            bounds.append(float(bound))
        assert bounds[0] > 0
        assert np.all(np.diff(bounds) > -2e-6 * bounds[-1])
        assert bounds[0] < 0.9 * bounds[-1]  # the bound is not the whole: this test can fail
        assert bounds[-1] == pytest.approx(float(whole), rel=1e-5)
        for got, expected in zip(gradients, whole_gradients, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_zero_where_the_student_is_the_teacher():
    x = example()
    x["teacher_hidden"], x["teacher_table"] = x["hidden"], x["table"]
    same = top_k(*(jnp.asarray(x[name]) for name in ("hidden", "table")), 4, softcap=CAP)
    (total, _), gradients = loss_and_gradients(x, same)
    assert float(total) == pytest.approx(0, abs=2e-6)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=2e-6)


def test_who_is_sure_of_what_is_kept_has_a_bucket_all_the_same():
    # In float32 the kept token has all of the mass: 1 - 1 would be an empty bucket.
    hidden, where = jnp.ones((1, 1)), jnp.ones(1, bool)
    sure, unsure = (jnp.array([[logit], [0.0], [0.0]]) for logit in (40.0, 1.0))

    def both(table, teacher_table, name):
        cached = top_k(hidden, teacher_table, 1, softcap=None)
        divergence = divergences.by_name(name)

        def loss(hidden):
            return top_k_loss(hidden, table, cached, where, divergence, softcap=None)[0]

        return jax.value_and_grad(loss)(hidden)

    log_sure, log_unsure = (np.array([z, np.log(2)]) - logsumexp([z, 0, 0]) for z in (40, 1))
    expected = np.exp(log_unsure) @ (log_unsure - log_sure)
    value, gradient = both(sure, unsure, "forward_kl")
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert float(gradient[0, 0]) == pytest.approx(40 * np.exp(log_unsure[1]), rel=1e-5)
    value, gradient = both(unsure, sure, "backward_kl")
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()


def test_the_same_for_every_chunk_size_and_whatever_is_masked():
    x = example()
    cached = answers(x).first(5)
    (total, count), gradients = loss_and_gradients(x, cached)
    dirty = TopK(
        np.where(x["where"][:, None], cached.ids, VOCAB + 3),
        np.where(x["where"][:, None], cached.logits, np.nan),
        np.where(x["where"], cached.log_rest, np.inf),
    )
    for chunk_size, other in ((1, cached), (4, dirty), (None, cached)):
        (again, same), others = loss_and_gradients(x, other, chunk_size=chunk_size)
        assert float(again) == pytest.approx(float(total), rel=1e-6)
        assert int(same) == int(count)
        for got, expected in zip(others, gradients, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-6)
    beyond = cached._replace(ids=jnp.full_like(cached.ids, VOCAB))
    assert np.isnan(loss_and_gradients(x, beyond)[0][0])


@pytest.mark.parametrize(("vocab_size", "id_bytes"), [(65_536, 2), (65_537, 4)])
def test_rows_there_and_back(vocab_size, id_bytes):
    random = np.random.default_rng(0)
    cached = TopK(
        random.integers(0, vocab_size, (2, 5, 3)),
        random.normal(size=(2, 5, 3)).astype(np.float32),
        random.normal(size=(2, 5)).astype(np.float32),
    )
    cached.ids[0, 0] = [vocab_size - 1, 0, 1]
    rows = teacher_cache.to_rows(cached, vocab_size)
    assert rows.shape == (10,)
    assert rows.dtype == teacher_cache.row_dtype(3, vocab_size)
    assert rows.dtype.itemsize == 3 * (id_bytes + 4) + 4
    for got, expected in zip(teacher_cache.from_rows(rows.reshape(2, 5)), cached, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert teacher_cache.row_dtype(64, 256_128).itemsize == 516


def test_a_key_for_each_content():
    config = Gemma2Config.gemma2_2b()
    tokens = np.arange(12).reshape(3, 4)
    weights = {"a": np.ones((2, 3), np.float32), "b": {"c": np.zeros(0)}}

    def key(tokens=tokens, config=config, weights=weights, k=8):
        return tuple(teacher_cache.content_key(tokens, config, weights, k).items())

    changed = weights | {"a": weights["a"].copy()}
    changed["a"][1, 2] = 1.0000001
    others = [
        key(),
        key(tokens=tokens + 1),
        key(tokens=tokens.reshape(4, 3)),
        key(tokens=tokens.astype(np.int32)),
        key(weights=changed),
        key(weights=weights | {"a": weights["a"].astype(jnp.bfloat16)}),
        key(weights={"a": weights["a"], "d": {"c": np.zeros(0)}}),
        key(config=Gemma2Config.gemma2_9b()),
        key(k=9),
    ]
    assert len(set(others)) == len(others)
    assert key(tokens=jnp.asarray(tokens)) == key(tokens=tokens.astype(np.int32))
    assert dict(key())["softcap"] == 30.0


def test_refusals():
    x = example()
    hidden, table = (jnp.asarray(x[name]) for name in ("teacher_hidden", "teacher_table"))
    for k in (0, VOCAB + 1):
        with pytest.raises(ValueError, match=f"k: expected between 1 and {VOCAB} tokens"):
            top_k(hidden, table, k, softcap=None)
    with pytest.raises(ValueError, match="the 6 tokens kept"):
        answers(x, k=6).first(7)
