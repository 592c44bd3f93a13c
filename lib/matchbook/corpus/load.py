"""From a source to three sets of texts, with a digest that says exactly which texts these were."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from matchbook.corpus import documents as choose
from matchbook.corpus import environment, files

ENVIRONMENT = "environment"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Texts in three splits that share no file.

    Attributes:
      train: texts to learn from.
      validation: texts to watch the learning with.
      test: texts to judge by in the end.
      digest: 64 hex digits of the names, contents and order of all of them, for the passport.
      skipped: why files or rows were left out -> how many.
      shredded: whether the documents were so few that a split fell empty, so that they were cut
        into about 100 pieces: neighbouring pieces of one text may then be on both sides.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    digest: str
    skipped: Mapping[str, int]
    shredded: bool

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name} {len(texts):,} documents, {sum(map(len, texts)) / 1e6:.2f} M characters"
            for name, texts in (
                ("train", self.train),
                ("validation", self.validation),
                ("test", self.test),
            )
        )
        left_out = choose.tell(Counter(self.skipped))
        return f"Corpus {self.digest[:12]}: {parts}; skipped: {left_out}"


def load(source: str | Path = ENVIRONMENT, *, max_bytes: int | None = None) -> Corpus:
    """Reads, de-duplicates, limits and splits the texts of a source.

    Args:
      source: `"environment"` for the Python source of the standard library and the installed
        packages, else the path of a folder or of one `.txt`, `.jsonl` or `.parquet` file.
      max_bytes: limit on the UTF-8 bytes of all three splits together, met by a sample that is
        uniform over documents and always the same. None takes everything.

    Raises:
      FileNotFoundError: no such path; names the nearest.
      ValueError: no text found, too little for three splits, a missing column, a limit below 1.
    """
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes: expected at least 1 or None, got {max_bytes}")
    skipped: Counter[str] = Counter()
    selection = choose.Selection(max_bytes)
    if source == ENVIRONMENT:
        found = environment.documents(environment.roots(), selection, skipped)
    else:
        found = files.documents(files.find(source), skipped)
    for document in found:
        selection.add(document)
    skipped["duplicate"] += selection.duplicates
    skipped["larger than max_bytes"] += selection.too_large
    kept = selection.documents()
    if not kept:
        raise ValueError(_empty(source, skipped))
    return _split(source, kept, skipped)


def _split(source: str | Path, kept: list[choose.Document], skipped: Counter[str]) -> Corpus:
    parts = choose.split(kept)
    shredded = not all(parts.values())
    if shredded:
        kept = choose.shred(kept)
        parts = choose.split(kept)
    if not all(parts.values()):
        size = sum(len(document.text) for document in kept)
        raise ValueError(
            f"{source}: {size:,} characters are too little text to train, validate and test on: "
            "add more documents"
        )
    counts = {why: number for why, number in skipped.items() if number}
    return Corpus(**parts, digest=choose.digest(kept), skipped=counts, shredded=shredded)


def _empty(source: str | Path, skipped: Counter[str]) -> str:
    if source == ENVIRONMENT:
        hint = "is the standard library in a zip file? Give a folder of your own instead"
    else:
        hint = f"expected files of kind {', '.join(files.READERS)} with text in them"
    return f"{source}: empty corpus, no text found; skipped: {choose.tell(skipped)}; {hint}"
