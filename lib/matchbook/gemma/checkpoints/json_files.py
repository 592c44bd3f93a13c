"""JSON from a folder that nobody vouches for: an object of bounded size, each key once."""

import json
from pathlib import Path
from typing import Any

from matchbook.gemma.checkpoints.errors import CheckpointError

LARGEST = 16 * 2**20  # bytes; the index of the 27B has 0.1 MB


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      CheckpointError: no such file, too large a one, or something else in it.
    """
    if not path.is_file():  # also keeps us from opening a pipe and waiting for ever
        raise CheckpointError(path, expected="a JSON file", found="no such file")
    if (size := path.stat().st_size) > LARGEST:
        raise CheckpointError(path, expected=f"at most {LARGEST:,} bytes", found=f"{size:,}")
    return parse_object(path, path.read_bytes())


def parse_object(path: Path, content: bytes) -> dict[str, Any]:
    """The object that `content`, bytes of the file `path`, spells; raises CheckpointError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(path, twice, expected="each key once", found="it twice")
        return result

    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=once)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, expected="JSON", found=str(error)) from error
    if not isinstance(found, dict):
        raise CheckpointError(path, expected="a JSON object", found=f"a {type(found).__name__}")
    return found
