"""What a folder holds, told by its content: Hugging Face files, Google's Orbax tree, or neither."""

import dataclasses
from pathlib import Path

from matchbook.gemma.checkpoints.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ORBAX_MARKS = ("_METADATA", "manifest.ocdbt")
UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
WANTED = f"{SINGLE} or {INDEX} (Hugging Face), or a folder with _METADATA (Orbax)"


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint: its layout, "hugging_face" or "flax", and the folder with its weights."""

    layout: str
    folder: Path


def recognise(path: Path) -> Found:
    """What is in a folder, or for Google's layout in the one folder inside it.

    Raises:
      CheckpointError: no folder, an empty one, another kind of checkpoint, or more than one.
    """
    if not path.exists():
        raise CheckpointError(path, expected="a checkpoint folder", found="nothing there")
    if not path.is_dir():
        hint = "pass the folder that it lies in"
        raise CheckpointError(path, expected="a checkpoint folder", found="a file", hint=hint)
    names = sorted(entry.name for entry in path.iterdir())
    inside = sorted(entry for entry in path.iterdir() if entry.is_dir())
    orbax = [path] if _is_orbax(path) else [folder for folder in inside if _is_orbax(folder)]
    single, index = SINGLE in names, INDEX in names
    kinds = [SINGLE] * single + [INDEX] * index + [p.name for p in orbax]
    if len(kinds) > 1:
        raise CheckpointError(
            path,
            expected="one checkpoint",
            found=", ".join(kinds),
            hint="which one is meant? move the others away",
        )
    if single or index:
        return Found("hugging_face", path)
    if orbax:
        return Found("flax", orbax[0])
    raise CheckpointError(path, expected=WANTED, **_what_else(names))


def _is_orbax(path: Path) -> bool:
    return any((path / mark).is_file() for mark in ORBAX_MARKS)


def _what_else(names: list[str]) -> dict[str, str]:
    for name in names:
        if name.endswith(UNSAFE):
            hint = "loading one could run code, so none is opened; convert it to safetensors"
            return {"found": f"{name}, a pickle", "hint": hint}
        if name.endswith(".gguf"):
            hint = "its weights are packed otherwise; take the original safetensors"
            return {"found": f"{name}, a GGUF file", "hint": hint}
    if not names:
        return {"found": "an empty folder"}
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return {"found": ", ".join(names[:8]) + more}
