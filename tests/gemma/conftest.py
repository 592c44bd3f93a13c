"""Tokenizers whose ids are arranged as in Gemma 2's own file, which cannot be fetched here."""

from collections import Counter

import pytest
from sentencepiece import sentencepiece_model_pb2

from matchbook import corpus
from matchbook.gemma.tokenizer import Tokenizer

Proto = sentencepiece_model_pb2.ModelProto
Piece = Proto.SentencePiece
WORDS = ["knock", "who", "is", "there", "gemma", "and", "what", "does", "frame", "of", "a", "turn"]
TEXT = "\n".join(
    f"user {word}\nmodel answers the user: Knock {word}? Who's Gemma, said the model in {other}."
    for word in WORDS
    for other in WORDS
)


def in_gemma_order(model: bytes, kind: int) -> bytes:
    """A trained SentencePiece model with Gemma 2's ids (reference sheet, section 8.4).

    Ids 0 to 107 are its control and reserved pieces, 108 the newline, 1645 and 2516 the roles; the
    other pieces keep their order and unused ones fill the gaps. `kind` is the type of the turns:
    how Gemma's file has it is not known to us, so both ways are tested.
    """
    proto = Proto.FromString(model)
    trained = {piece.piece: piece for piece in proto.pieces}
    reserved = ["<mask>", "<2mass>", "[@BOS@]", *(f"<unused{i}>" for i in range(99))]
    fixed = dict(enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *reserved]))
    fixed |= {106: "<start_of_turn>", 107: "<end_of_turn>", 108: "\n", 1645: "user", 2516: "model"}
    others = [piece for name, piece in trained.items() if name not in fixed.values()]
    pieces, taken = [], iter(others)
    for id in range(2517):
        if id in fixed and fixed[id] in trained:
            pieces.append(trained[fixed[id]])
        elif id in fixed:
            pieces.append(Piece(piece=fixed[id], score=0.0, type=Piece.USER_DEFINED))
        elif (piece := next(taken, None)) is not None:
            pieces.append(piece)
        else:
            pieces.append(Piece(piece=f"<filler{id}>", score=0.0, type=Piece.UNUSED))
    assert next(taken, None) is None
    for id in (106, 107):
        pieces[id].type = kind
    del proto.pieces[:]
    proto.pieces.extend(pieces)
    assert set(Counter(piece.piece for piece in proto.pieces).values()) == {1}
    return proto.SerializeToString()


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """As `corpus` trains them, with the roles among its pieces."""
    return corpus.train_tokenizer([TEXT], 390)


@pytest.fixture(scope="session", params=["CONTROL", "USER_DEFINED"])
def gemma_tokenizer(request, small_tokenizer) -> Tokenizer:
    """The same with Gemma 2's ids."""
    return Tokenizer(in_gemma_order(small_tokenizer.model, getattr(Piece, request.param)))


@pytest.fixture(scope="session", params=["small", "CONTROL", "USER_DEFINED"])
def tokenizer(request, small_tokenizer) -> Tokenizer:
    """All three."""
    if request.param == "small":
        return small_tokenizer
    return Tokenizer(in_gemma_order(small_tokenizer.model, getattr(Piece, request.param)))
