"""The whole way in one call: source, texts, tokenizer, packed rows; kept on disk by digest."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import sentencepiece

from matchbook.corpus.cache import remember
from matchbook.corpus.load import ENVIRONMENT, Corpus, load
from matchbook.corpus.packing import Encoded, Rows, encode, pack
from matchbook.corpus.tokenizer import Tokenizer, train_tokenizer

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows of tokens in three splits, and what they were made with.

    Attributes:
      train: rows to learn from.
      validation: rows to watch the learning with.
      test: rows to judge by in the end.
      tokenizer: learned from the train texts alone.
      bytes_per_token: UTF-8 bytes of the validation texts for each of their tokens, so that
        `nats / bytes_per_token / log(2)` is bits per byte, comparable between vocabularies.
      digest: 64 hex digits of the texts, for the passport.
    """

    train: Rows
    validation: Rows
    test: Rows
    tokenizer: Tokenizer
    bytes_per_token: float
    digest: str


def dataset(
    source: str | Path = ENVIRONMENT,
    *,
    max_bytes: int | None,
    vocab_size: int,
    time: int,
    cache: Path | None = None,
) -> Dataset:
    """Packed rows of the source; see `load` for the source and what raises.

    Args:
      source: `"environment"` or a path.
      max_bytes: limit on the text of all splits together.
      vocab_size: pieces of the tokenizer.
      time: tokens in a row.
      cache: folder for tokenizers and ids, so that the next call only lists and reads the texts.
    """
    texts = load(source, max_bytes=max_bytes)
    tokenizer = _tokenizer(texts, vocab_size, cache)
    encoded = _encoded(texts, tokenizer, cache)
    size = sum(len(text.encode()) for text in texts.validation)
    return Dataset(
        **{name: pack(encoded[name], time) for name in SPLITS},
        tokenizer=tokenizer,
        bytes_per_token=size / (len(encoded["validation"].tokens) - len(texts.validation)),
        digest=texts.digest,
    )


def identity(source: str | Path, *, max_bytes: int | None = None) -> str:
    """What stands for a source in the key of a record.

    `"environment"` for the environment: every environment is a sample of the same kind of text, so
    a record made in one may be shown in another, and its passport tells the digest. A source of
    one's own is named with the digest of its contents: other contents, other records.
    """
    if source == ENVIRONMENT:
        return ENVIRONMENT
    return f"{Path(source).name} {load(source, max_bytes=max_bytes).digest[:16]}"


def _tokenizer(texts: Corpus, vocab_size: int, cache: Path | None) -> Tokenizer:
    key = _key(texts.digest, str(vocab_size), sentencepiece.__version__)
    return remember(
        cache and cache / f"tokenizer-{key}.model",
        make=lambda: train_tokenizer(texts.train, vocab_size),
        write=lambda path, tokenizer: tokenizer.save(path),
        read=Tokenizer.load,
    )


def _encoded(texts: Corpus, tokenizer: Tokenizer, cache: Path | None) -> dict[str, Encoded]:
    return remember(
        cache and cache / f"tokens-{_key(texts.digest, tokenizer.digest)}.npz",
        make=lambda: {name: encode(getattr(texts, name), tokenizer) for name in SPLITS},
        write=_write,
        read=_read,
    )


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _write(path: Path, encoded: dict[str, Encoded]) -> None:
    arrays = {
        f"{name}.{field}": values
        for name, documents in encoded.items()
        for field, values in documents._asdict().items()
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _read(path: Path) -> dict[str, Encoded]:
    with np.load(path) as arrays:
        return {
            name: Encoded(arrays[f"{name}.tokens"], arrays[f"{name}.lengths"]) for name in SPLITS
        }
