"""Gemma 2 checkpoints on disk: Hugging Face's layout and Google's, loaded and saved.

    model = load_checkpoint("gemma-2-2b-it", dtype="bfloat16")
    save_checkpoint(model, "copy")

Besides `gemma.tokenizer`, the only part of this floor that touches a disk.
"""

from matchbook.gemma.checkpoints.errors import CheckpointError
from matchbook.gemma.checkpoints.loading_and_saving import load_checkpoint, save_checkpoint
from matchbook.gemma.checkpoints.weights import with_rows

__all__ = ["CheckpointError", "load_checkpoint", "save_checkpoint", "with_rows"]
