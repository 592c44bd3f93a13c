"""What Gemma 2 is (arXiv 2408.00118): configuration, the model, and what it costs."""

from matchbook.gemma.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.generation import generate
from matchbook.gemma.model import Transformer

__all__ = [
    "CheckpointError",
    "Gemma2Config",
    "Transformer",
    "generate",
    "load_checkpoint",
    "save_checkpoint",
]
