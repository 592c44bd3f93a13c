"""A corpus of one's own: `.txt`, `.jsonl` (field `text`) and `.parquet` (column `text`) files.

A file that cannot be read, or is not UTF-8, is skipped and counted; a file without the column is a
mistake to be told about, so it raises. Unusual: a long `.txt` is several documents, so that one
book larger than the size limit still makes a corpus.
"""

import difflib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from matchbook.corpus.documents import Document, cut, decode, sha256

COLUMN = "text"
PIECE = 64 * 1024  # characters of a .txt file in one document


def listing(path: Path) -> list[tuple[str, Path]]:
    """Names, relative to `path`, and paths of the files to read, sorted by name.

    Raises:
      FileNotFoundError: `path` does not exist; names the nearest that does.
      ValueError: `path` is a file of another kind.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(path)!r}{nearest(path)}")
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise ValueError(f"{path}: expected one of {_kinds()}, found {path.suffix!r}")
        return [(path.name, path)]
    files = (file for file in path.rglob("*") if file.suffix.lower() in READERS and file.is_file())
    return sorted((file.relative_to(path).as_posix(), file) for file in files)


def documents(path: Path, skipped: Counter[str]) -> Iterator[Document]:
    """All documents under `path`.

    Raises:
      ValueError: a `.jsonl` row or a `.parquet` file without the column `text`.
    """
    for name, file in listing(path):
        yield from READERS[file.suffix.lower()](name, file, skipped)


def _read_text(name: str, path: Path, skipped: Counter[str]) -> Iterator[Document]:
    data = _bytes(path, skipped)
    text = None if data is None else decode(data, skipped)
    if text is not None:
        group = sha256(text)
        for index, piece in enumerate(cut(text, PIECE)):
            yield Document(sha256(name) + index.to_bytes(4), group, piece)


def _read_jsonl(name: str, path: Path, skipped: Counter[str]) -> Iterator[Document]:
    data = _bytes(path, skipped)
    text = None if data is None else decode(data, skipped)
    for index, line in enumerate((text or "").split("\n")):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            skipped["line that is not JSON"] += 1
            continue
        if not isinstance(row, dict) or COLUMN not in row:
            found = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise ValueError(
                f"{path}, line {index + 1}: expected a field {COLUMN!r}, found {found}: rename it"
            )
        yield from _row(f"{name}#{index}", row[COLUMN], skipped)


def _read_parquet(name: str, path: Path, skipped: Counter[str]) -> Iterator[Document]:
    import pyarrow as arrow  # half a second that text files need not pay
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (OSError, arrow.ArrowInvalid):
        skipped["unreadable"] += 1
        return
    with file:
        columns = file.schema_arrow
        if COLUMN not in columns.names:
            raise ValueError(
                f"{path}: expected a column {COLUMN!r}, found {columns.names}: rename it"
            )
        kind = columns.field(COLUMN).type
        if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
            raise ValueError(f"{path}: expected strings in column {COLUMN!r}, found {kind}")
        index = 0
        for batch in file.iter_batches(columns=[COLUMN]):
            for text in batch.column(0).to_pylist():
                yield from _row(f"{name}#{index}", text, skipped)
                index += 1


def _row(name: str, text: object, skipped: Counter[str]) -> Iterator[Document]:
    if not isinstance(text, str):
        skipped["row without text"] += 1
    elif not text.strip():
        skipped["empty"] += 1
    else:
        yield Document(sha256(name), sha256(text), text)


def _bytes(path: Path, skipped: Counter[str]) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        skipped["unreadable"] += 1
        return None


def find(source: str | Path) -> Path:
    """The source's path; a relative one may start where the user's shell is, too.

    A notebook that is run from the command line works in its own folder, not in the shell's.
    """
    path = Path(source).expanduser()
    there = Path(os.environ.get("PWD", "."), path)
    return path if path.exists() else there


def nearest(path: Path) -> str:
    """`: did you mean ...?` for a mistyped path, by the first part of it that does not exist."""
    missing = path.absolute()
    while not missing.parent.exists():
        missing = missing.parent
    siblings = [entry.name for entry in missing.parent.iterdir()] if missing.parent.is_dir() else []
    close = difflib.get_close_matches(missing.name, siblings, n=1)
    return f": did you mean {str(missing.parent / close[0])!r}?" if close else ""


def _kinds() -> str:
    return ", ".join(READERS)


READERS: dict[str, Callable[[str, Path, Counter[str]], Iterator[Document]]] = {
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
