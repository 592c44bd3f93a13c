"""The whole way: cached or not, the same rows; damage is mended; names for records."""

from pathlib import Path

import numpy as np
import pytest

from matchbook import corpus

SIZES = {"max_bytes": 400_000, "vocab_size": 400, "time": 32}


@pytest.fixture(scope="module")
def made(real_text: Path) -> corpus.Dataset:
    return corpus.dataset(real_text, **SIZES)


def assert_same(one: corpus.Dataset, other: corpus.Dataset) -> None:
    assert one.digest == other.digest
    assert one.tokenizer.model == other.tokenizer.model
    assert one.bytes_per_token == other.bytes_per_token
    for name in ("train", "validation", "test"):
        for mine, theirs in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype


def test_the_rows_spell_the_validation_texts(made, real_text: Path):
    texts = corpus.load(real_text, max_bytes=SIZES["max_bytes"]).validation
    flat = made.validation.tokens[made.validation.segments > 0]
    starts = np.flatnonzero(flat == made.tokenizer.bos)
    documents = np.split(flat, starts[1:])
    assert [made.tokenizer.decode(document) for document in documents] == list(texts)
    size = sum(len(text.encode()) for text in texts)
    assert made.bytes_per_token == size / (len(flat) - len(texts))


def test_the_cache_gives_the_same_rows_and_is_written_once(made, real_text: Path, tmp_path: Path):
    for _ in range(2):
        assert_same(corpus.dataset(real_text, **SIZES, cache=tmp_path), made)
        files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert len(files) == 2
    corpus.dataset(real_text, **{**SIZES, "time": 16}, cache=tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    corpus.dataset(real_text, **{**SIZES, "vocab_size": 500}, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", [b"", b"not a file of ours"])
def test_a_damaged_cache_is_made_anew(made, real_text: Path, tmp_path: Path, damage: bytes):
    corpus.dataset(real_text, **SIZES, cache=tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(damage)
    assert_same(corpus.dataset(real_text, **SIZES, cache=tmp_path), made)
    assert all(len(path.read_bytes()) > 100 for path in tmp_path.iterdir())


def test_a_failure_while_writing_leaves_nothing(real_text: Path, tmp_path: Path, monkeypatch):
    def fail(*_args, **_arrays):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space"):
        corpus.dataset(real_text, **SIZES, cache=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".model"]


def test_identity_names_the_environment_but_digests_ones_own_text(tmp_path: Path):
    assert corpus.identity("environment") == "environment"
    book = tmp_path / "book.txt"
    book.write_text("".join(f"line {index}\n" for index in range(30_000)))
    before = corpus.identity(book)
    assert before.startswith("book.txt ")
    assert corpus.identity(book) == before
    assert corpus.identity(book, max_bytes=100_000) != before
    book.write_text("".join(f"line {index}!\n" for index in range(30_000)))
    assert corpus.identity(book) != before
