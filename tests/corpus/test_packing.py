"""Rows: against a loop over tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matchbook import corpus
from matchbook.corpus import Encoded, Rows


def pack_by_loop(documents: list[list[int]], time: int) -> list[list[tuple[int, int, int]]]:
    """(token, position, segment), one token at a time."""
    rows, row, segment = [], [], 0
    for document in documents:
        segment, position = segment + 1, 0
        for token in document:
            if len(row) == time:
                rows.append(row)
                row, segment, position = [], 1, 0
            row.append((token, position, segment))
            position += 1
    return [*rows, row + [(0, 0, 0)] * (time - len(row))]


def encoded(documents: list[list[int]]) -> Encoded:
    tokens = np.array([token for document in documents for token in document], np.int32)
    return Encoded(tokens, np.array([len(document) for document in documents], np.int64))


many = st.lists(st.lists(st.integers(3, 99), min_size=2, max_size=20), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(many, st.integers(2, 17))
def test_packing_is_the_loop(documents, time):
    rows = corpus.pack(encoded(documents), time)
    expected = np.array(pack_by_loop(documents, time), np.int32)
    np.testing.assert_array_equal(np.stack(rows, axis=-1), expected)
    assert all(values.dtype == np.int32 for values in rows)


@settings(max_examples=50, deadline=None)
@given(many, st.integers(2, 17))
def test_every_token_once_and_no_row_without_one(documents, time):
    rows = corpus.pack(encoded(documents), time)
    kept = rows.segments > 0
    assert rows.tokens[kept].tolist() == [token for document in documents for token in document]
    assert kept.any(axis=1).all()
    assert (rows.tokens[~kept] == 0).all()


def test_documents_are_wrapped_in_bos_and_eos(real_texts):
    texts = ["first text\n", "second"]
    tokenizer = corpus.train_tokenizer(real_texts, 400)
    found = corpus.encode(texts, tokenizer)
    start = 0
    for text, length in zip(texts, found.lengths, strict=True):
        ids = found.tokens[start : start + length]
        assert (ids[0], ids[-1]) == (tokenizer.bos, tokenizer.eos)
        assert tokenizer.decode(ids[1:-1]) == text
        start += length
    assert start == len(found.tokens)


def test_nothing_to_pack_is_told():
    with pytest.raises(ValueError, match="nothing to pack"):
        corpus.pack(encoded([]), 8)
    with pytest.raises(ValueError, match="at least 2 tokens a row, got 1"):
        corpus.pack(encoded([[2, 1]]), 1)


def numbered(num_rows: int) -> Rows:
    tokens = np.arange(num_rows, dtype=np.int32)[:, None] * np.ones(4, np.int32)
    return Rows(tokens, np.zeros_like(tokens), np.ones_like(tokens))


def drawn(stream, count: int) -> list[list[int]]:
    return [next(stream).tokens[:, 0].tolist() for _ in range(count)]


def test_batches_visit_every_row_once_a_pass_in_a_new_order_each():
    stream = corpus.batches(numbered(12), batch_size=5, seed=3)
    seen = np.concatenate(drawn(stream, 12)).reshape(5, 12)
    for one_pass in seen:
        assert sorted(one_pass) == list(range(12))
    assert len({tuple(one_pass) for one_pass in seen}) == 5


def test_batches_depend_on_the_seed_alone():
    rows = numbered(50)
    first, again, other = (drawn(corpus.batches(rows, 4, seed), 20) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("before", [0, 1, 7, 33])
def test_a_stream_goes_on_exactly_where_it_was(before):
    rows = numbered(10)
    uninterrupted = corpus.batches(rows, 3, seed=5)
    drawn(uninterrupted, before)
    state = uninterrupted.get_state()
    resumed = corpus.batches(rows, 3, seed=5)
    drawn(resumed, 2)
    resumed.set_state(state)
    assert drawn(resumed, 20) == drawn(uninterrupted, 20)


def test_a_batch_keeps_its_fields_together():
    rows = corpus.pack(encoded([[2, 5, 6, 1]] * 9), 3)
    batch = next(corpus.batches(rows, 6, seed=0))
    assert isinstance(batch, Rows)
    known = set(zip(*(map(tuple, values.tolist()) for values in rows), strict=True))
    assert set(zip(*(map(tuple, values.tolist()) for values in batch), strict=True)) <= known


def test_impossible_batches_are_told():
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        corpus.batches(numbered(3), 0, seed=0)
    with pytest.raises(ValueError, match="at least one row"):
        corpus.batches(corpus.take(numbered(3), slice(0, 0)), 1, seed=0)


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(5, 9, 5), (5, 5, 5), (100, 7, 7), (9, 1, 1)]
)
def test_rows_are_spread_evenly(total, count, expected):
    found = corpus.spread(numbered(total), count).tokens[:, 0]
    assert len(found) == expected
    assert found[0] == 0
    if expected > 1:
        assert found[-1] == total - 1
        assert np.ptp(np.diff(found)) <= 1
