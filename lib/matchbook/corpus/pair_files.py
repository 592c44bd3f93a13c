"""Prompts and answers of one's own: `.jsonl`, `.parquet`, or a folder that `datasets` saved.

Unusual: nothing is skipped. A row without a prompt is a mistake in the data, told with its number.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matchbook.corpus.files import nearest
from matchbook.corpus.pair import Pair

KINDS = (".jsonl", ".parquet")
Rows = Iterator[tuple[str, Any, Any]]  # where it stands, prompt, answer


def pairs(path: Path, prompt: str, answer: str) -> Iterator[Pair]:
    """All pairs under `path`, from the two columns named.

    Raises:
      FileNotFoundError: `path` does not exist; names the nearest that does.
      ValueError: a file of another kind, a missing column, a row without text; names the row.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(path)!r}{nearest(path)}")
    for split, file in _files(path):
        for where, *texts in _READERS[file.suffix.lower()](file, prompt, answer):
            for column, text in zip((prompt, answer), texts, strict=True):
                _check_text(where, column, text)
            yield Pair(*texts, where=where, group=texts[0], split=split)


def _files(path: Path) -> list[tuple[str, Path]]:
    """Files to read, each with the split that its folder is named after."""
    if path.is_file():
        if path.suffix.lower() not in KINDS:
            raise ValueError(f"{path}: expected one of {', '.join(KINDS)}, found {path.suffix!r}")
        return [("", path)]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _READERS)
    if not files:
        kinds = ", ".join(_READERS)
        raise ValueError(f"{path}: expected files of kind {kinds} in this folder, found none")
    return [("" if file.parent == path else file.parent.name, file) for file in files]


def _read_jsonl(path: Path, prompt: str, answer: str) -> Rows:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, row {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: expected a JSON object, {error}") from error
            found = sorted(row) if isinstance(row, dict) else [type(row).__name__]
            _check_columns(where, found, prompt, answer)
            yield where, row[prompt], row[answer]


def _read_parquet(path: Path, prompt: str, answer: str) -> Rows:
    from pyarrow import parquet  # half a second that text files need not pay

    with parquet.ParquetFile(path) as file:
        _check_columns(str(path), file.schema_arrow.names, prompt, answer)
        yield from _of_batches(path, file.iter_batches(columns=[prompt, answer]), prompt, answer)


def _read_arrow(path: Path, prompt: str, answer: str) -> Rows:
    """What `Dataset.save_to_disk` writes: Arrow's stream format."""
    from pyarrow import ipc, memory_map

    with memory_map(str(path)) as source, ipc.open_stream(source) as stream:
        _check_columns(str(path), stream.schema.names, prompt, answer)
        yield from _of_batches(path, stream, prompt, answer)


def _of_batches(path: Path, batches: Any, prompt: str, answer: str) -> Rows:
    number = 0
    for batch in batches:
        columns = (batch.column(name).to_pylist() for name in (prompt, answer))
        for texts in zip(*columns, strict=True):
            number += 1
            yield f"{path}, row {number}", *texts


def _check_columns(where: str, found: list[str], prompt: str, answer: str) -> None:
    if missing := [name for name in (prompt, answer) if name not in found]:
        raise ValueError(
            f"{where}: expected columns {prompt!r} and {answer!r}, found {found}: name yours with "
            f"prompt= and answer= (missing: {', '.join(missing)})"
        )


def _check_text(where: str, column: str, text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{where}: expected text in {column!r}, found {type(text).__name__}")
    if not text.strip():
        raise ValueError(f"{where}: {column!r} is empty: fill it in or take the row out")


_READERS = {".jsonl": _read_jsonl, ".parquet": _read_parquet, ".arrow": _read_arrow}
