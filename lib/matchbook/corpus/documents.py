"""Documents, and which of them make a corpus: no duplicates, a size limit, three splits.

Unusual: every choice follows from hashes of relative names and of contents, never from the order in
which a disk lists files, from paths or from dates. So a limit takes a uniform sample, the same on
every machine, and a document keeps its place and its split when others come or go.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Of 100 files about 5 validate and 5 test.
VALIDATION_SHARE = 0.05
TEST_SHARE = 0.05


class Document(NamedTuple):
    """One text, and what places it.

    order: where it stands in the corpus; a hash of its name.
    group: what decides its split; a hash of the contents of the file that it comes from.
    """

    order: bytes
    group: bytes
    text: str


def sha256(data: str | bytes) -> bytes:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).digest()


def decode(data: bytes, skipped: Counter[str]) -> str | None:
    """The text of a file, with `\\n` line ends and no byte order mark; None, and counted, if it is
    not UTF-8 or empty."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        skipped["not UTF-8"] += 1
        return None
    if not text.strip():
        skipped["empty"] += 1
        return None
    return text


class Selection:
    """Takes documents in any order; keeps the first in hash order that fit within `max_bytes`.

    Of documents with the same content only the first counts; one that is larger than the limit by
    itself is left out. At most twice the limit is held in memory, whatever the size of the source.
    """

    def __init__(self, max_bytes: int | None):
        self.max_bytes = max_bytes
        self.duplicates = 0
        self.too_large = 0
        self._kept: dict[bytes, Document] = {}
        self._size = 0
        self._bound: bytes | None = None

    def wants(self, order: bytes) -> bool:
        """False for a place that the limit has already ruled out: no need to read it."""
        return self._bound is None or order < self._bound

    def add(self, document: Document) -> None:
        if not self.wants(document.order):
            return
        content = sha256(document.text)
        size = len(document.text.encode())
        known = self._kept.get(content)
        if known is not None:
            self.duplicates += 1
            if known.order < document.order:
                return
        elif self.max_bytes is not None and size > self.max_bytes:
            self.too_large += 1
            return
        else:
            self._size += size
        self._kept[content] = document
        if self.max_bytes is not None and self._size > 2 * self.max_bytes:
            self._trim()

    def documents(self) -> list[Document]:
        """What was kept, in hash order."""
        if self.max_bytes is not None and self._size > self.max_bytes:
            self._trim()
        return sorted(self._kept.values())

    def _trim(self) -> None:
        """Keeps the longest run of first documents within the limit, and rules out the rest."""
        limit = self.max_bytes or 0
        kept, size = {}, 0
        for content, document in sorted(self._kept.items(), key=lambda item: item[1].order):
            grown = size + len(document.text.encode())
            if grown > limit:
                self._bound = document.order
                break
            kept[content], size = document, grown
        self._kept, self._size = kept, size


def split(documents: Iterable[Document]) -> dict[str, tuple[str, ...]]:
    """Texts of the train, validation and test documents: all of a file fall on one side."""
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for document in documents:
        parts[split_of(document.group)].append(document.text)
    return {name: tuple(texts) for name, texts in parts.items()}


def split_of(group: bytes) -> str:
    """ "train", "validation" or "test": the same for all of a group, whatever else there is."""
    share = int.from_bytes(sha256(b"split" + group)[:8]) / 2**64
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


def shred(documents: Sequence[Document]) -> list[Document]:
    """About 100 pieces of equal size, each with a split of its own: for a handful of long texts."""
    size = max(1, sum(len(document.text) for document in documents) // 100)
    return [
        Document(document.order + index.to_bytes(4), sha256(piece), piece)
        for document in documents
        for index, piece in enumerate(cut(document.text, size))
    ]


def cut(text: str, size: int) -> list[str]:
    """Pieces of at most `size` characters that join to `text`, cut after a line where possible."""
    pieces, start = [], 0
    while start < len(text):
        end = start + size
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        pieces.append(text[start:end])
        start = end
    return pieces


def digest(documents: Iterable[Document]) -> str:
    """64 hex digits that change with any name, place or content of the documents."""
    total = hashlib.sha256()
    for document in documents:
        total.update(document.order + document.group + sha256(document.text))
    return total.hexdigest()


def tell(skipped: Counter[str]) -> str:
    """`12 duplicate, 3 not UTF-8`, or `nothing`."""
    return ", ".join(f"{n:,} {why}" for why, n in sorted(skipped.items()) if n) or "nothing"
