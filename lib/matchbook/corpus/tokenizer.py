"""A small tokenizer as Gemma's (section 2 of the Gemma 2 report), trained in a second.

Byte-pair pieces, digits one by one, whitespace kept as it is, bytes for what has no piece; pad,
eos, bos and unk have Gemma's ids. Unusual: training is deterministic, so a tokenizer is named by
its digest. The class is the one that reads Gemma's own file.
"""

import io
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import sentencepiece

from matchbook.gemma.tokenizer import BOS, EOS, PAD, TURNS, UNK, Tokenizer

__all__ = ["Tokenizer", "train_tokenizer"]

# Pieces are learned from this much text; more changes them little and costs time.
LEARN_FROM = 2_000_000  # characters
SMALLEST = 384  # 256 bytes, 7 fixed pieces, printable ASCII, and some to learn


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
