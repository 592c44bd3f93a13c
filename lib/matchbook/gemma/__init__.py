"""What Gemma 2 is (arXiv 2408.00118): configuration, the model, checkpoints, text from it.

    model = load_checkpoint("gemma-2-2b-it", dtype="bfloat16")
    out = generate(model, [prompt], max_new_tokens=64)

Unusual: names are looked up when they are asked for, so that who wants a tokenizer does not wait
for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matchbook.gemma.chat import format_chat, training_chat
    from matchbook.gemma.checkpoints import (
        CheckpointError,
        load_checkpoint,
        save_checkpoint,
        with_rows,
    )
    from matchbook.gemma.config import Gemma2Config
    from matchbook.gemma.generation import generate
    from matchbook.gemma.model import Transformer
    from matchbook.gemma.rollout import Generation
    from matchbook.gemma.streaming import stream, text_pieces
    from matchbook.gemma.tokenizer import Tokenizer

_HOME = {
    "CheckpointError": "checkpoints",
    "Gemma2Config": "config",
    "Generation": "rollout",
    "Tokenizer": "tokenizer",
    "Transformer": "model",
    "format_chat": "chat",
    "generate": "generation",
    "load_checkpoint": "checkpoints",
    "save_checkpoint": "checkpoints",
    "stream": "streaming",
    "text_pieces": "streaming",
    "training_chat": "chat",
    "with_rows": "checkpoints",
}

__all__ = [
    "CheckpointError",
    "Gemma2Config",
    "Generation",
    "Tokenizer",
    "Transformer",
    "format_chat",
    "generate",
    "load_checkpoint",
    "save_checkpoint",
    "stream",
    "text_pieces",
    "training_chat",
    "with_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
