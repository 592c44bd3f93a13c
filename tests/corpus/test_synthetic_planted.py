"""Planting: copies counted by brute force, nothing lost; sources: every line once."""

import numpy as np
import pytest

from matchbook import corpus
from matchbook.corpus import Encoded
from matchbook.corpus.synthetic import by_source, plant, redundancy
from matchbook.corpus.synthetic.planted import CONTINUATION, COPIES, LENGTH, PROMPT, Planted

BOS, EOS = 2, 1


def source_of(seed: int, count: int, length: int = 260, twins: int = 0) -> Encoded:
    """Random documents; the first `twins` of them twice."""
    random = np.random.default_rng(seed)
    documents = [
        np.array([BOS, *random.integers(4, 30, length), EOS], np.int32) for _ in range(count)
    ]
    documents += documents[:twins]
    return Encoded(np.concatenate(documents), np.array([len(ids) for ids in documents]))


DOCUMENTS = {"code": source_of(0, 60, twins=40), "prose": source_of(1, 40)}


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(DOCUMENTS, time=220, per_level=2, seed=0, copies=(0, 1, 2, 4, 8))


def each(encoded: Encoded) -> list[tuple[int, ...]]:
    pieces = np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1])
    return [tuple(piece.tolist()) for piece in pieces]


def test_copies_are_exact_in_the_documents_and_in_the_rows(planted):
    assert (slice(0, 51), slice(51, 101)) == (PROMPT, CONTINUATION)
    rows = corpus.pack(planted.encoded, 220)
    windows = np.lib.stride_tricks.sliding_window_view(rows.tokens, LENGTH, axis=1)
    passages = planted.passages
    assert sorted(passages.copies.tolist()) == sorted([0, 1, 2, 4, 8] * 4)
    for tokens, copies in zip(passages.tokens, passages.copies, strict=True):
        assert (tokens[0], tokens[-1]) == (BOS, EOS)
        assert each(planted.encoded).count(tuple(tokens.tolist())) == copies
        row, place = (windows == tokens).all(axis=-1).nonzero()
        assert len(row) == copies
        for r, p in zip(row, place, strict=True):  # whole in its row, a document by itself
            assert len(set(rows.segments[r, p : p + LENGTH])) == 1
            np.testing.assert_array_equal(rows.positions[r, p : p + LENGTH], np.arange(LENGTH))
        # Without bos and eos it is nowhere else either.
        inner = np.lib.stride_tricks.sliding_window_view(planted.encoded.tokens, LENGTH - 2)
        assert (inner == tokens[1:-1]).all(axis=-1).sum() == copies


def test_passages_come_from_where_they_say(planted):
    passages = planted.passages
    assert len({(s, d) for s, d in zip(passages.source, passages.document, strict=True)}) == 20
    for source, document, tokens in zip(
        passages.source, passages.document, passages.tokens, strict=True
    ):
        text = each(DOCUMENTS[source])[document]
        windows = np.lib.stride_tricks.sliding_window_view(np.array(text), LENGTH - 2)
        assert (windows == tokens[1:-1]).all(axis=-1).sum() == 1
        assert source == "prose" or 40 <= document < 60  # the twins are passed over
    for source in DOCUMENTS:
        of_source = passages.copies[passages.source == source]
        assert sorted(of_source.tolist()) == sorted([0, 1, 2, 4, 8] * 2)


def test_nothing_else_is_lost_or_added(planted):
    def counts(tokens: np.ndarray) -> np.ndarray:
        return np.bincount(tokens.ravel(), minlength=30)

    before = sum(counts(encoded.tokens) for encoded in DOCUMENTS.values())
    passages = planted.passages
    expected = (
        before
        - counts(passages.tokens[:, 1:-1])
        + counts(np.repeat(passages.tokens, passages.copies, axis=0))
    )
    np.testing.assert_array_equal(counts(planted.encoded.tokens), expected)
    assert planted.encoded.lengths.sum() == len(planted.encoded.tokens)
    assert planted.encoded.lengths.min() > 0


def test_without_copies_documents_only_change_their_order():
    found = plant(DOCUMENTS, time=128, per_level=3, seed=1, copies=(0,))
    left = set(each(found.encoded))
    for source, encoded in DOCUMENTS.items():
        cut = set(found.passages.document[found.passages.source == source].tolist())
        assert {d for i, d in enumerate(each(encoded)) if i not in cut} <= left
    assert len(found.encoded.lengths) == 140 + 6  # each cut document is two


def test_planting_depends_on_the_seed_alone(planted):
    again = plant(DOCUMENTS, time=220, per_level=2, seed=0, copies=(0, 1, 2, 4, 8))
    other = plant(DOCUMENTS, time=220, per_level=2, seed=1, copies=(0, 1, 2, 4, 8))
    np.testing.assert_array_equal(again.encoded.tokens, planted.encoded.tokens)
    np.testing.assert_array_equal(again.encoded.lengths, planted.encoded.lengths)
    for found, expected in zip(again.passages, planted.passages, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (other.passages.tokens != planted.passages.tokens).any()


def test_the_paper_sized_levels_fit_where_there_is_text():
    found = plant({"code": source_of(5, 90)}, time=102, per_level=1, seed=0)
    assert found.passages.copies.tolist() == list(COPIES)
    assert sum(found.encoded.lengths) == 90 * 262 - 8 * 100 + 127 * 102


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"time": 101}, "time: expected rows of at least 102 tokens, got 101"),
        ({"per_level": 0}, "got per_level=0"),
        ({"copies": (1, -1)}, r"copies=\(1, -1\)"),
        ({"per_level": 15}, "source 'prose': expected 45 documents .* got 40 of 40: give more"),
        ({"copies": (200,)}, r"400 copies need at least 80,000 tokens in rows of 200, got"),
    ],
)
def test_impossible_plantings_are_told(changes, match):
    arguments = {"time": 200, "per_level": 2, "seed": 0, "copies": (0, 1, 2)} | changes
    with pytest.raises(ValueError, match=match):
        plant({"prose": DOCUMENTS["prose"]}, **arguments)


def test_no_source_is_told():
    with pytest.raises(ValueError, match="documents: expected at least one source, got none"):
        plant({}, time=200, per_level=2, seed=0)


PYTHON = '''"""Module
prose."""
import os

TABLE = [
    1, 2,
    "three",
    -4,
    (5, 6),
    {"seven": 8},
    None,
]
COMPUTED = [
    1,
    2,
    3,
    4,
    5,
    6,
    len("x"),
]


class Thing:
    """Class prose."""

    def method(self):
        """Method
        prose."""
        return "not prose"
'''


def test_python_is_taken_apart_line_by_line():
    found = by_source([PYTHON, "no Python at all\n", "x = 1\rTABLE = 2\n"])
    assert found["prose"] == (
        '"""Module\nprose."""\n    """Class prose."""\n        """Method\n        prose."""',
    )
    lines = PYTHON.split("\n")
    assert found["data"] == ("\n".join(lines[4:12]),)
    assert found["text"] == ("no Python at all\n",)
    code, other = found["code"]
    assert code.split("\n") == lines[2:4] + lines[12:24] + lines[25:27] + lines[29:]
    assert other == "x = 1\nTABLE = 2\n"


def test_real_python_keeps_every_line_and_is_cut(real_texts):
    found = by_source(real_texts)
    assert set(found) >= {"code", "prose", "data"}
    assert max(len(document) for documents in found.values() for document in documents) <= 2000
    kept = sum(len("".join(documents).replace("\n", "")) for documents in found.values())
    assert kept / sum(len(text.replace("\n", "")) for text in real_texts) == pytest.approx(1, 1e-3)


def test_redundancy_orders_noise_text_and_repetition(real_texts):
    noise = bytes(np.random.default_rng(0).integers(33, 127, 20_000, np.uint8)).decode()
    text = "\n".join(real_texts)[:20_000]
    values = [redundancy([part]) for part in (noise, text, "again and " * 2000)]
    assert values == sorted(values)
    assert 0.1 < values[0] < 0.25  # log2(94) bits of 8: 18 % can be saved
    assert values[2] > 0.98
    with pytest.raises(ValueError, match="expected some text"):
        redundancy([])
