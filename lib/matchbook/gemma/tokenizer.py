"""SentencePiece as Gemma uses it (section 2 of the report), and its control tokens (Table 4).

One class for Gemma's own `tokenizer.model`, of 256,000 pieces, and for the small ones that
`corpus.train_tokenizer` learns. Unusual: a control token comes into a sequence by its id alone;
spelled out in a text it stays text, also with Gemma's own file, whose SentencePiece model would
take it for the token. So nobody ends the other's turn by typing.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import SupportsInt

import sentencepiece

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"  # ids 0, 1, 2, 3 in every vocabulary
START_OF_TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"  # 106 and 107 in Gemma 2's
TURNS = [START_OF_TURN, END_OF_TURN]
FILE = "tokenizer.model"


class Tokenizer:
    """Text to ids and back, from a serialized SentencePiece model.

    ``decode(encode(text)) == text`` for every text without U+2581, which SentencePiece takes for
    a space, and without lone surrogates, which are no text.
    """

    def __init__(self, model: bytes):
        self.model = model
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        controls = [PAD, EOS, BOS, UNK, *TURNS]
        ids = {piece: self._pieces.piece_to_id(piece) for piece in controls}
        self._silent = {id for piece, id in ids.items() if piece != UNK and id != self.unk}
        # Spelled-out controls that SentencePiece would encode as the token, cut after their "<".
        taken = [piece for piece, id in ids.items() if id in self._pieces.encode(piece)]
        names = "|".join(re.escape(piece[1:]) for piece in taken)
        self._cut = re.compile(f"(?<=<)(?={names})") if taken else None

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """From a `tokenizer.model`, Gemma's own or one that `save` wrote, or the folder it is in.

        Raises:
          FileNotFoundError: no such file.
          ValueError: the file holds something else, or a tokenizer without Gemma's control tokens.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE
        model = path.read_bytes()
        try:
            if not model:  # SentencePiece would take it for a vocabulary of nothing
                raise RuntimeError("it is empty")
            tokenizer = cls(model)
        except RuntimeError as error:
            raise ValueError(f"{path}: expected a SentencePiece model; {error}") from error
        found = {"pad": tokenizer.pad, "eos": tokenizer.eos, "bos": tokenizer.bos}
        found["unk"] = tokenizer.unk
        if found != (expected := {"pad": 0, "eos": 1, "bos": 2, "unk": 3}):
            raise ValueError(
                f"{path}: expected Gemma's control tokens, {expected}, found {found}; "
                "is this the tokenizer of another model?"
            )
        return tokenizer

    def save(self, path: str | Path) -> None:
        Path(path).write_bytes(self.model)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without bos and eos. Control tokens spelled out stay text."""
        if self._cut is None or "<" not in text:
            return self._pieces.encode(text)
        return [id for part in self._cut.split(text) for id in self._pieces.encode(part)]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        if self._cut is not None:
            return [self.encode(text) for text in texts]
        return self._pieces.encode(list(texts), num_threads=1) if texts else []

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of the ids; control tokens leave no trace in it."""
        return self._pieces.decode([i for i in map(int, ids) if i not in self._silent])

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
    def start_of_turn(self) -> int:
        """Raises ValueError where the vocabulary has no turns."""
        return self.id_of(START_OF_TURN)

    @property
    def end_of_turn(self) -> int:
        """Raises ValueError where the vocabulary has no turns."""
        return self.id_of(END_OF_TURN)

    @property
    def stop_tokens(self) -> tuple[int, int]:
        """What ends an answer: eos, and the end of the model's turn (1 and 107 in Gemma 2)."""
        return self.eos, self.end_of_turn

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.model).hexdigest()
