"""One `attention` for all devices."""

from matchbook.gemma.attention.dense import dense_attention

attention = dense_attention
