"""Recall: each answer stands exactly so far away, once, and nowhere nearer."""

import numpy as np
import pytest

from matchbook.corpus.synthetic import Recall
from matchbook.corpus.synthetic.recall import accuracy

TASK = Recall(vocab_size=40, num_pairs=3, time=31)


def test_every_distance_is_exact_by_search():
    distances = np.repeat(np.arange(TASK.shortest, TASK.longest + 1), 5)
    rows = TASK.rows(distances, seed=0)
    np.testing.assert_array_equal(rows.distances, distances)
    for tokens, where, distance in zip(rows.tokens, rows.where, distances, strict=True):
        asked = np.flatnonzero(where)
        assert len(asked) == 3
        for place in asked:
            key, answer = tokens[place], tokens[place + 1]
            (told,) = np.flatnonzero(tokens[:place] == key)
            assert tokens[told + 1] == answer
            assert place - (told + 1) == distance
            # The answer is nowhere nearer: a window of `distance` tokens does not hold it.
            assert answer not in tokens[place - distance + 1 : place + 1]


def test_keys_values_and_text_do_not_mix():
    rows = TASK.rows(np.full(300, 15), seed=0)
    n = TASK.num_values
    values = np.roll(rows.where, 1, axis=1)
    assert set(rows.tokens[rows.where]) == set(range(1, n + 1))
    assert set(rows.tokens[values]) == set(range(n + 1, 2 * n + 1))
    told = 31 - 6 - 1 - 15
    text = np.delete(rows.tokens, [*range(told, told + 6), *range(25, 31)], axis=1)
    assert set(text.ravel()) == set(range(2 * n + 1, 40))
    for part in (rows.tokens[rows.where], rows.tokens[values]):
        assert all(len(set(row)) == 3 for row in part.reshape(-1, 3))


def test_rows_are_batches_of_one_document():
    rows = TASK.rows(np.array([9, 12]), seed=1)
    assert rows.tokens.shape == rows.where.shape == (2, 31)
    np.testing.assert_array_equal(rows.positions, [np.arange(31)] * 2)
    np.testing.assert_array_equal(rows.segments, 1)


def test_accuracy_counts_answers_alone():
    rows = TASK.rows(np.array([5, 10, 15, 20]), seed=0)
    logits = np.zeros((4, 31, 40), np.float32)
    for row in range(4):
        for right, place in enumerate(np.flatnonzero(rows.where[row])):
            answer = rows.tokens[row, place + 1]
            logits[row, place, answer if right < row else 0] = 1
    np.testing.assert_allclose(accuracy(logits, rows), [0, 1 / 3, 2 / 3, 1])


def test_the_stream_goes_on_exactly_and_mixes_distances():
    stream = TASK.stream(50, np.array([5, 24]), seed=0)
    batches = [next(stream) for _ in range(4)]
    assert set(batches[0].distances) == {5, 24}
    assert 60 < sum((batch.distances == 5).sum() for batch in batches) < 140
    resumed = TASK.stream(50, np.array([5, 24]), seed=0)
    resumed.set_state({"step": 3})
    for found, expected in zip(next(resumed), batches[3], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (batches[0].tokens != batches[1].tokens).any()
    assert (next(TASK.stream(50, np.array([5, 24]), seed=1)).tokens != batches[0].tokens).any()


@pytest.mark.parametrize("distance", [TASK.shortest - 1, TASK.longest + 1])
def test_a_distance_that_does_not_fit_is_told(distance):
    with pytest.raises(ValueError, match=f"5 to 24, for 3 pairs in rows of 31, got {distance}"):
        TASK.rows(np.array([7, distance]), seed=0)


def test_impossible_tasks_are_told():
    with pytest.raises(ValueError, match="num_pairs: expected 1 to 10, a quarter"):
        Recall(vocab_size=40, num_pairs=11, time=64)
    with pytest.raises(ValueError, match="time: expected at least 16 tokens, for 4 pairs"):
        Recall(vocab_size=40, num_pairs=4, time=15)
