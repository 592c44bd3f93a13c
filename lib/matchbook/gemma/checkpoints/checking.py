"""What a file lists held against what a model of its config must have, before anything is read."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from matchbook.gemma.checkpoints.errors import CheckpointError, shape_text
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.mapping import TensorPlace

LAYER = re.compile(r"(?:model\.layers\.|transformer/layer_)(\d{1,6})[./]")


def check_layers(config: Gemma2Config, names: Iterable[str], file: Path, source: str) -> None:
    """Refuses a config with another number of layers than the names have.

    Done first, as the table of places has one entry for each layer that the config claims.

    Args:
      config: as `source` says.
      names: of the tensors.
      file: the file or folder that holds them.
      source: where the config is from, such as `config.json`.
    """
    found = count_layers(names)
    if found != config.num_layers:
        raise CheckpointError(
            file,
            expected=f"{config.num_layers:,} layers, as {source} says",
            found=f"tensors of {found}",
        )


def count_layers(names: Iterable[str]) -> int:
    """Layers that some tensor is named for, up to the last of them."""
    return 1 + max((int(match[1]) for name in names if (match := LAYER.match(name))), default=-1)


def check_tensors(
    places: Iterable[TensorPlace],
    found: Mapping[str, tuple[int, ...]],
    folder: Path,
    file_of: Callable[[str], Path],
    source: str,
) -> None:
    """Refuses a tensor that is missing, not Gemma 2's, or of another shape; names the first.

    Args:
      places: what the config asks for.
      found: name -> shape.
      folder: what to name where a tensor is in no file.
      file_of: the file of a tensor that is there.
      source: where the config is from.
    """
    expected = {place.name: place.shape for place in places}
    wrong = {n: s for n, s in expected.items() if n in found and found[n] != s}
    for name, shape in wrong.items():
        raise CheckpointError(
            file_of(name),
            name,
            expected=shape_text(shape),
            found=shape_text(found[name]),
            hint=f"by {source}; {len(wrong)} of {len(expected)} tensors differ from it",
        )
    missing = [name for name in expected if name not in found]
    for name in missing:
        raise CheckpointError(
            folder,
            name,
            expected=shape_text(expected[name]),
            found="no such tensor",
            hint=f"{len(missing)} of {len(expected)} are missing",
        )
    for name in found:
        if name not in expected:
            raise CheckpointError(
                file_of(name),
                name,
                expected=f"only the {len(expected)} tensors of this Gemma 2",
                found=f"another one, of {shape_text(found[name])}",
            )
