"""Gemma 2's attention: one definition, and faster ways to compute it."""

from matchbook.gemma.attention.choice import attention
from matchbook.gemma.attention.masks import visible
from matchbook.gemma.attention.module import Attention

__all__ = ["Attention", "attention", "visible"]
