"""SentencePiece as Gemma uses it (section 2 of the Gemma 2 report), loaded or trained in a second.

Byte-pair pieces, digits one by one, whitespace kept as it is, bytes for what has no piece. Control
tokens have Gemma's ids. Unusual: training is deterministic, so a tokenizer is named by its digest.
"""

import hashlib
import io
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import SupportsInt

import sentencepiece

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"  # ids 0, 1, 2, 3
TURNS = ["<start_of_turn>", "<end_of_turn>"]

# Pieces are learned from this much text; more changes them little and costs time.
LEARN_FROM = 2_000_000  # characters
SMALLEST = 384  # 256 bytes, 7 fixed pieces, printable ASCII, and some to learn


class Tokenizer:
    """Text to ids and back, from a serialized SentencePiece model.

    ``decode(encode(text)) == text`` for every text without the characters U+2581, which
    SentencePiece takes for a space, and U+0000, where it stops.
    """

    def __init__(self, model: bytes):
        self.model = model
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """From a `tokenizer.model` file, Gemma's own or one that `save` wrote.

        Raises:
          ValueError: the file holds something else.
        """
        model = Path(path).read_bytes()
        try:
            if not model:  # SentencePiece would take it for a vocabulary of nothing
                raise RuntimeError("it is empty")
            return cls(model)
        except RuntimeError as error:
            raise ValueError(f"{path}: expected a SentencePiece model; {error}") from error

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(self.model)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without bos and eos. Control tokens spelled out stay text."""
        return self._pieces.encode(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return self._pieces.encode(list(texts), num_threads=1) if texts else []

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of the ids; control tokens leave no trace in it."""
        return self._pieces.decode([int(token) for token in ids])

    def pieces(self, ids: Iterable[SupportsInt]) -> list[str]:
        """Each id's own piece, `▁` for a space: for looking at."""
        return [self._pieces.id_to_piece(int(token)) for token in ids]

    def id_of(self, piece: str) -> int:
        """The id of a piece such as `<start_of_turn>`.

        Raises:
          ValueError: this vocabulary has no such piece.
        """
        found = self._pieces.piece_to_id(piece)
        if found == self.unk and piece != UNK:
            raise ValueError(f"no piece {piece!r} among the {self.vocab_size:,} of this tokenizer")
        return found

    @property
    def vocab_size(self) -> int:
        return self._pieces.vocab_size()

    @property
    def pad(self) -> int:
        return self._pieces.pad_id()

    @property
    def eos(self) -> int:
        return self._pieces.eos_id()

    @property
    def bos(self) -> int:
        return self._pieces.bos_id()

    @property
    def unk(self) -> int:
        return self._pieces.unk_id()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.model).hexdigest()


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Learns `vocab_size` pieces from the first two million characters of the texts.

    Raises:
      ValueError: `vocab_size` too small for the bytes, or larger than the texts have pieces for.
    """
    if vocab_size < SMALLEST:
        raise ValueError(
            f"vocab_size: expected at least {SMALLEST}, for bytes, letters, control tokens and "
            f"some pieces, got {vocab_size}"
        )
    lines = _lines(texts, most_characters=vocab_size // 8)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=1.0,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n"],
            control_symbols=TURNS,
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            pad_piece=PAD,
            eos_piece=EOS,
            bos_piece=BOS,
            unk_piece=UNK,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"vocab_size: {vocab_size:,} pieces cannot be learned from {len(lines):,} lines "
            f"of text; SentencePiece says: {error}"
        ) from error
    return Tokenizer(model.getvalue())


def _lines(texts: Iterable[str], most_characters: int) -> list[str]:
    """Lines to learn from, without their ends, which are a piece of their own.

    Cut, too, at characters that are neither ASCII nor among the most frequent, which fall back to
    bytes: a single table of Unicode would otherwise fill a small vocabulary with its letters.
    """
    sample, size = [], 0
    for text in texts:
        sample.append(text[: LEARN_FROM - size])
        size += len(text)
        if size >= LEARN_FROM:
            break
    joined = "\n".join(sample)
    frequent = {character for character, _ in Counter(joined).most_common(most_characters)}
    rare = {ord(c): "\n" for c in set(joined) - frequent - set(string.printable)}
    return [line for line in joined.translate(rare).split("\n") if line]
