"""Gemma 2's attention: one definition, and faster ways to compute it."""

from matchbook.gemma.attention.choice import attention, chosen, describe
from matchbook.gemma.attention.masks import visible, visible_between
from matchbook.gemma.attention.module import Attention

__all__ = ["Attention", "attention", "chosen", "describe", "visible", "visible_between"]
