"""What Gemma 2 is (arXiv 2408.00118): configuration, the model, and what it costs."""

from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.model import Transformer

__all__ = ["Gemma2Config", "Transformer"]
