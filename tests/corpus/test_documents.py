"""Which documents a corpus takes: against a brute-force choice, and under every change of order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matchbook.corpus import documents
from matchbook.corpus.documents import Document, Selection, cut, sha256


def document(name: str, text: str) -> Document:
    return Document(sha256(name), sha256(text), text)


def brute_force(candidates: list[Document], max_bytes: int | None) -> list[Document]:
    """The definition: no duplicates, none too large, then the longest prefix in hash order."""
    kept, size = [], 0
    for candidate in sorted(candidates):
        length = len(candidate.text.encode())
        if any(candidate.text == other.text for other in kept):
            continue
        if max_bytes is not None and length > max_bytes:
            continue
        if max_bytes is not None and size + length > max_bytes:
            break
        kept.append(candidate)
        size += length
    return kept


words = st.text("abé", min_size=1, max_size=6)
corpora = st.lists(st.tuples(st.integers(0, 40), words), max_size=30)


@settings(max_examples=150, deadline=None)
@given(corpora, st.one_of(st.none(), st.integers(1, 60)), st.randoms())
def test_selection_is_the_prefix_in_hash_order_in_any_order_of_arrival(pairs, limit, shuffler):
    candidates = [document(f"{name}", text) for name, text in dict(pairs).items()]
    expected = brute_force(candidates, limit)
    shuffler.shuffle(candidates)
    selection = Selection(limit)
    for candidate in candidates:
        selection.add(candidate)
    assert selection.documents() == expected


def test_selection_holds_at_most_twice_the_limit():
    selection = Selection(1000)
    for index in range(500):
        selection.add(document(f"{index}", f"{index:05d}" * 20))
        assert sum(len(kept.text) for kept in selection._kept.values()) <= 2000 + 100


def test_what_the_limit_has_ruled_out_is_not_wanted():
    selection = Selection(100)
    orders = sorted(sha256(f"{index}") for index in range(100))
    for order in orders:
        selection.add(Document(order, order, order.hex()[:20]))
    assert [selection.wants(order) for order in orders] == [True] * 5 + [False] * 95


def test_split_shares_are_near_five_per_cent_and_stable_when_documents_are_added():
    many = [document(f"file {index}", f"text {index}") for index in range(4000)]
    everything = documents.split(many)
    # A binomial of mean 200 and deviation 13.8: five deviations.
    assert 131 < len(everything["validation"]) < 269
    assert 131 < len(everything["test"]) < 269
    some = documents.split(random.Random(0).sample(many, 1000))
    for name, texts in some.items():
        assert set(texts) <= set(everything[name])


def test_all_pieces_of_a_file_fall_on_one_side():
    pieces = [Document(sha256(f"{i}"), sha256(f"file {i % 300}"), f"{i}") for i in range(3000)]
    side = {text: name for name, texts in documents.split(pieces).items() for text in texts}
    for file in range(300):
        assert len({side[f"{index}"] for index in range(file, 3000, 300)}) == 1


@settings(max_examples=100, deadline=None)
@given(st.text("ab\n", max_size=200), st.integers(1, 30))
def test_cut_loses_nothing_and_prefers_line_ends(text, size):
    pieces = cut(text, size)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size for piece in pieces)
    for piece in pieces[:-1]:
        assert piece.endswith("\n") or "\n" not in piece


@pytest.mark.parametrize("change", ["name", "text", "group", "fewer"])
def test_digest_changes_with_every_part(change):
    first = [document("a", "one"), document("b", "two")]
    second = {
        "name": [document("a", "one"), document("c", "two")],
        "text": [document("a", "one"), document("b", "three")],
        "group": [document("a", "one"), Document(sha256("b"), sha256("other"), "two")],
        "fewer": [document("a", "one")],
    }[change]
    assert documents.digest(first) == documents.digest(list(first))
    assert documents.digest(first) != documents.digest(second)
