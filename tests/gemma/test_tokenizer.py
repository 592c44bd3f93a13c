"""The tokenizer on vocabularies of both kinds: ours, and one with the ids of Gemma 2's own."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from matchbook import corpus
from matchbook.gemma.tokenizer import FILE, Tokenizer

Proto = sentencepiece_model_pb2.ModelProto
CONTROLS = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
# Every character but U+2581, SentencePiece's space, and lone surrogates; controls on purpose.
TEXTS = st.lists(
    st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"]))
    | st.sampled_from([*CONTROLS, "<unk>", "<mask>", "<", "end_of_turn>", "\n", " ", "  ", "user"])
).map("".join)


def test_ids_are_those_of_gemma_2(gemma_tokenizer):
    """Reference sheet, section 8.4."""
    t = gemma_tokenizer
    assert (t.pad, t.eos, t.bos, t.unk, t.start_of_turn, t.end_of_turn) == (0, 1, 2, 3, 106, 107)
    assert t.stop_tokens == (1, 107)
    expected = ["<mask>", "<2mass>", "[@BOS@]", "<unused0>", "<unused98>", "\n", "user", "model"]
    assert t.pieces([4, 5, 6, 7, 105, 108, 1645, 2516]) == expected
    assert [t.id_of(piece) for piece in expected] == [4, 5, 6, 7, 105, 108, 1645, 2516]
    assert t.encode("user\n") + t.encode("model\n") == [1645, 108, 2516, 108]


def test_one_interface(small_tokenizer):
    assert corpus.Tokenizer is Tokenizer
    assert type(small_tokenizer) is Tokenizer
    assert small_tokenizer.stop_tokens == (1, small_tokenizer.id_of("<end_of_turn>"))


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_any_text_comes_back_without_a_control_token(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.id_of(piece) for piece in CONTROLS} & set(ids)
    assert tokenizer.unk not in ids
    assert tokenizer.encode_all([text, "x"]) == [ids, tokenizer.encode("x")]


def test_sentencepiece_itself_would_take_a_spelled_out_control(small_tokenizer, request):
    """The danger is real in the one vocabulary and not in the other; nothing else is cut."""
    raw = {}
    for tokenizer in (small_tokenizer, user_defined(small_tokenizer)):
        pieces = SentencePieceProcessor(model_proto=tokenizer.model)
        end = tokenizer.end_of_turn
        raw[end in pieces.encode("stop<end_of_turn>now")] = tokenizer
        assert end not in tokenizer.encode("stop<end_of_turn>now")
        plain = "if a < b <b>and</b> <end_of_tur> then <eos"
        assert tokenizer.encode(plain) == pieces.encode(plain)
    assert raw.keys() == {True, False}


def user_defined(tokenizer: Tokenizer) -> Tokenizer:
    proto = Proto.FromString(tokenizer.model)
    for piece in proto.pieces:
        if piece.piece in CONTROLS[3:]:
            piece.type = proto.SentencePiece.USER_DEFINED
    return Tokenizer(proto.SerializeToString())


def test_control_tokens_leave_no_trace(tokenizer):
    ids = tokenizer.encode("an answer")
    framed = [tokenizer.bos, tokenizer.start_of_turn, *ids, tokenizer.end_of_turn, tokenizer.eos, 0]
    assert tokenizer.decode(framed) == "an answer"


def test_files(tokenizer, tmp_path):
    tokenizer.save(tmp_path / FILE)
    for path in (tmp_path, tmp_path / FILE, str(tmp_path)):
        assert Tokenizer.load(path).digest == tokenizer.digest


def test_files_of_something_else_are_told(small_tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(tmp_path)
    for content in (b"", b"text", b"\x80\x04N.", small_tokenizer.model[:-100]):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path / FILE}: expected a Sent")):
            Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("swap", "found"), [(("<pad>", "<eos>"), "'pad': 1, 'eos': 0"), (None, "'pad': -1")]
)
def test_the_tokenizer_of_another_model_is_told(small_tokenizer, tmp_path: Path, swap, found):
    proto = Proto.FromString(small_tokenizer.model)
    if swap:
        first, second = (next(p for p in proto.pieces if p.piece == name) for name in swap)
        first.piece, second.piece = second.piece, first.piece
    else:
        proto.pieces[0].piece = "<other>"
    (tmp_path / FILE).write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=f"expected Gemma's control tokens, .* found .*{found}"):
        Tokenizer.load(tmp_path)


def test_a_vocabulary_without_turns_is_told(small_tokenizer):
    proto = Proto.FromString(small_tokenizer.model)
    for piece in proto.pieces:
        piece.piece = piece.piece.replace("_of_turn>", "_of_talk>")
    with pytest.raises(ValueError, match="no piece '<end_of_turn>' among the 390"):
        Tokenizer(proto.SerializeToString()).stop_tokens  # noqa: B018
