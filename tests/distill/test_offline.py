"""Offline distillation: the cache over rows, and that its step stays below the full divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from matchbook import corpus, distill
from matchbook.distill import teacher_cache
from matchbook.distill.models import logits_of
from matchbook.gemma import Gemma2Config

CONFIG = Gemma2Config(
    vocab_size=17,
    embed_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=32,
    sliding_window=4,
)
TIME, BATCH = 10, 2
SGD = optax.sgd(1.0)


@pytest.fixture(scope="module")
def model():
    return distill.new_model(CONFIG, seed=0)


@pytest.fixture(scope="module")
def teacher(model):
    return distill.frozen_teacher(model[0], distill.new_model(CONFIG, seed=7)[1])


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    documents = [random.integers(1, 17, n).astype(np.int32) for n in (7, 12, 3, 9, 15)]
    lengths = np.array([len(ids) for ids in documents], np.int64)
    return corpus.pack(corpus.Encoded(np.concatenate(documents), lengths), TIME)  # 5 rows


def written(folder, teacher, rows, k):
    key = teacher_cache.content_key(rows, CONFIG, teacher.args[0], k)
    dtype = teacher_cache.row_dtype(k, CONFIG.vocab_size)
    with corpus.TokenStoreWriter(folder, key, dtype) as store:
        distill.write_cache(teacher, rows, k, store, batch_size=BATCH)
    return corpus.read_token_store(folder, key, dtype, rows.tokens.size)


def test_the_step_is_a_lower_bound_that_closes_as_k_grows(tmp_path, model, teacher, rows):
    graph, weights = model
    state = distill.train_state(weights, SGD)
    full = distill.distill_step(graph, SGD, teacher, divergence="forward_kl")
    expected, exact = jax.jit(full)(state, jax.tree.map(jnp.asarray, rows))
    step, losses = jax.jit(distill.offline_step(graph, SGD)), {}
    for k in (1, 4, CONFIG.vocab_size):
        cached = distill.cached_rows(rows, written(tmp_path / str(k), teacher, rows, k))
        after, metrics = step(state, jax.tree.map(jnp.asarray, cached))
        losses[k] = float(metrics["loss"])
    assert 0 < losses[1] < losses[4] < losses[17]
    assert losses[17] == pytest.approx(float(exact["loss"]), rel=1e-5)
    found, wanted = ravel_pytree(after.weights)[0], ravel_pytree(expected.weights)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_batches_of_cached_rows_hold_the_teachers_own_answers(tmp_path, teacher, rows):
    cached = distill.cached_rows(rows, written(tmp_path / "cache", teacher, rows, 3))
    batch = next(corpus.batches(cached, BATCH, seed=1))
    assert isinstance(batch, distill.CachedRows)
    read = corpus.Rows(*map(jnp.asarray, batch[:3]))
    logits = np.asarray(logits_of(teacher(read)))
    best = np.argsort(-logits, axis=-1)[..., :3]
    real = batch.segments > 0
    np.testing.assert_array_equal(batch.ids[real], best[real])
    kept = np.take_along_axis(logits, best, -1)
    np.testing.assert_allclose(batch.logits[real], kept[real], atol=1e-5)


class Full(Exception):
    pass


def test_a_cache_that_was_interrupted_is_finished_and_the_same(tmp_path, teacher, rows):
    whole = written(tmp_path / "whole", teacher, rows, 3)
    key = teacher_cache.content_key(rows, CONFIG, teacher.args[0], 3)
    dtype = teacher_cache.row_dtype(3, CONFIG.vocab_size)

    class Short:
        """Takes one append, and fails at the next."""

        def __init__(self, store):
            self.store, self.rows = store, store.rows

        def append(self, answers):
            if self.store.rows:
                raise Full
            self.store.append(answers)

    with corpus.TokenStoreWriter(tmp_path / "part", key, dtype) as store, pytest.raises(Full):
        distill.write_cache(teacher, rows, 3, Short(store), batch_size=BATCH)
    with pytest.raises(corpus.TokenStoreError, match="it is unfinished"):
        corpus.read_token_store(tmp_path / "part", key, dtype, rows.tokens.size)
    again = written(tmp_path / "part", teacher, rows, 3)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(whole))


def test_answers_to_other_rows_are_refused(tmp_path, teacher, rows):
    stored = written(tmp_path / "cache", teacher, rows, 3)
    with pytest.raises(ValueError, match="expected an answer for each of 5 x 10 positions"):
        distill.cached_rows(rows, stored[:-1])

    class Odd:
        rows = 13

        def append(self, answers):
            raise AssertionError

    with pytest.raises(ValueError, match=r"whole rows of 10 positions, 5 at most, got\s+13"):
        distill.write_cache(teacher, rows, 3, Odd(), batch_size=BATCH)
