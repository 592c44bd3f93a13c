"""The tokenizer: round trips, Gemma's ids, the same model twice."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matchbook import corpus


@pytest.fixture(scope="module")
def tokenizer(real_texts) -> corpus.Tokenizer:
    return corpus.train_tokenizer(real_texts, 600)


def test_control_tokens_have_the_ids_of_gemma(tokenizer):
    assert tokenizer.vocab_size == 600
    assert (tokenizer.pad, tokenizer.eos, tokenizer.bos, tokenizer.unk) == (0, 1, 2, 3)
    assert tokenizer.pieces(range(4)) == ["<pad>", "<eos>", "<bos>", "<unk>"]
    for piece in ("<start_of_turn>", "<end_of_turn>", "\n"):
        assert tokenizer.pieces([tokenizer.id_of(piece)]) == [piece]
    with pytest.raises(ValueError, match="no piece '<mask>' among the 600"):
        tokenizer.id_of("<mask>")


def test_real_text_comes_back(real_texts, tokenizer):
    for text in real_texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk not in ids
        assert len(ids) < len(text.encode())


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_characters="\u2581\x00", exclude_categories=["Cs"])))
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces  ",
        "\n\n\n",
        "\ttab\r\n",
        "    return x\n",
        "naïve café 日本語 🙂",
    ],
)
def test_whitespace_and_unicode_come_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_split_and_spelled_out_controls_stay_text(tokenizer):
    assert tokenizer.pieces(tokenizer.encode("2048")) == ["2", "0", "4", "8"]
    ids = tokenizer.encode("<eos> and <bos> and <start_of_turn>")
    assert min(ids) > tokenizer.id_of("<end_of_turn>")


def test_control_tokens_leave_no_trace(tokenizer):
    ids = tokenizer.encode("answer")
    assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.eos, tokenizer.pad]) == "answer"


def test_training_twice_gives_the_same_model(real_texts, tokenizer):
    assert corpus.train_tokenizer(real_texts, 600).model == tokenizer.model


def test_a_saved_model_is_the_same(tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "tokenizer.model")
    loaded = corpus.Tokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.digest == tokenizer.digest
    assert loaded.encode("def f(x):") == tokenizer.encode("def f(x):")


def test_a_file_that_is_no_model_is_told(tmp_path: Path):
    for content in (b"", b"something else"):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"tokenizer\.model: expected a SentencePiece model"):
            corpus.Tokenizer.load(tmp_path / "tokenizer.model")


def test_a_table_of_letters_does_not_fill_a_small_vocabulary():
    letters = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 3000))
    tokenizer = corpus.train_tokenizer(["some words of plain text\n" * 500, letters], 400)
    assert tokenizer.decode(tokenizer.encode(letters)) == letters


def test_impossible_sizes_are_told():
    with pytest.raises(ValueError, match="expected at least 384"):
        corpus.train_tokenizer(["text"], 300)
    with pytest.raises(ValueError, match=r"5,000 pieces cannot be learned from 1 lines of text"):
        corpus.train_tokenizer(["a few words"], 5000)
