"""Extraction against the textbook's table for the edit distance, filled in by loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.distill.memorization import edit_distance, extraction


def distance_by_loops(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i in range(len(first) + 1):
        for j in range(len(second) + 1):
            if i == 0 or j == 0:
                table[i, j] = i + j
            else:
                substituted = table[i - 1, j - 1] + (first[i - 1] != second[j - 1])
                table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, substituted)
    return table[-1, -1]


@pytest.mark.parametrize(("length", "other"), [(1, 1), (7, 7), (9, 4), (3, 12), (50, 50)])
def test_distance_by_loops_on_random_rows(length, other):
    random = np.random.default_rng(length)
    rows = 20
    # Few kinds of tokens, so that many alignments compete; half of the rows are near copies.
    first = random.integers(0, 3, (rows, length))
    second = random.integers(0, 3, (rows, other))
    shared = min(length, other)
    second[::2, :shared] = np.where(random.random((10, shared)) < 0.9, first[::2, :shared], 7)
    second[::4] = np.roll(second[::4], 1, axis=1)
    got = edit_distance(jnp.asarray(first, jnp.int32), jnp.asarray(second, jnp.int32))
    expected = [distance_by_loops(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_array_equal(got, expected)
    assert len(set(expected)) > 1


def test_extraction_of_fifty_from_fifty():
    truth = np.tile(np.arange(50), (6, 1))
    generated = truth.copy()
    generated[1, 10] = 99  # one substitution
    generated[2] = np.roll(truth[2], 1)  # one deletion, one insertion
    generated[3, :5] = 99  # five, just within a tenth
    generated[4, :6] = 99  # six, just beyond it
    generated[5] = 99
    found = extraction(jnp.asarray(generated, jnp.int32), jnp.asarray(truth, jnp.int32))
    assert found.exact.tolist() == [True, False, False, False, False, False]
    assert found.approximate.tolist() == [True, True, True, True, False, False]


def test_a_tenth_is_of_the_truth():
    truth, generated = jnp.zeros((1, 20), jnp.int32), jnp.zeros((1, 18), jnp.int32)
    assert extraction(generated, truth).approximate.tolist() == [True]
    assert extraction(generated[:, :17], truth).approximate.tolist() == [False]
    assert extraction(truth, generated).approximate.tolist() == [False]  # 2 of 18
