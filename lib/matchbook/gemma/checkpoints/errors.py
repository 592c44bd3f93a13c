"""The one error that a checkpoint can raise: which file, which tensor, expected, found."""

from pathlib import Path


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded, or would not be loadable if it were saved.

    Attributes:
      file: the file or folder at fault.
      tensor: the tensor, leaf or key in it, or None where the whole file is at fault.
      expected: what a good checkpoint has there.
      found: what is there.
    """

    def __init__(
        self,
        file: Path | str,
        tensor: str | None = None,
        *,
        expected: str,
        found: str,
        hint: str = "",
    ):
        self.file, self.tensor, self.expected, self.found = Path(file), tensor, expected, found
        where = str(file) if tensor is None else f"{file}: {tensor}"
        message = f"{where}: expected {expected}, found {found}"
        super().__init__(f"{message} ({hint})" if hint else message)


def shape_text(shape: tuple[int, ...] | list[int]) -> str:
    """`shape [3, 4]`, as files write it."""
    return f"shape {list(shape)}"
