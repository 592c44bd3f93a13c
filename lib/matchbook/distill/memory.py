"""What a distillation loss needs beside its inputs and gradients: dense against chunked.

The numbers are the compiler's own, of programs that are compiled and never run, so that Gemma 2's
vocabulary fits on any machine.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from matchbook.distill.chunked import chunked_distillation_loss
from matchbook.distill.losses import soft_target_loss
from matchbook.gemma.layers import soft_cap

SOFTCAP = 30.0  # Gemma 2's


def loss_memory(
    tokens: int = 4096,
    vocab: int = 256_128,
    embed: int = 256,
    teacher_embed: int = 512,
    chunk_sizes: Sequence[int] = (256,),
) -> dict[str, int]:
    """Peak temporary bytes of the gradient of one distillation loss, by "dense" or "chunks of n".

    Dense is `soft_target_loss` of whole float32 logits under autodiff; chunked is
    `chunked_distillation_loss`. Both in float32, gradients with respect to the student's hidden
    states and table. Compiles a program for each row, seconds, for the default device.

    Raises:
      RuntimeError: the device's compiler does not tell.
    """
    float32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    shapes = (
        float32((1, tokens, embed)),
        float32((vocab, embed)),
        float32((1, tokens, teacher_embed)),
        float32((vocab, teacher_embed)),
        jax.ShapeDtypeStruct((1, tokens), jnp.bool),
    )
    losses: dict[str, Any] = {"dense": _dense}
    for size in chunk_sizes:
        losses[f"chunks of {size}"] = functools.partial(
            chunked_distillation_loss,
            softcap=SOFTCAP,
            teacher_softcap=SOFTCAP,
            chunk_size=size,
        )
    return {name: _temporary_bytes(loss, shapes) for name, loss in losses.items()}


def _dense(
    hidden: Array, table: Array, teacher_hidden: Array, teacher_table: Array, where: Array
) -> tuple[Array, Array]:
    logits = soft_cap(jnp.einsum("bte,ve->btv", hidden, table), SOFTCAP)
    teacher_logits = soft_cap(jnp.einsum("bte,ve->btv", teacher_hidden, teacher_table), SOFTCAP)
    return soft_target_loss(logits, teacher_logits, where)


def _temporary_bytes(loss: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> int:
    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    analysis = gradient.lower(*shapes).compile().memory_analysis()
    if analysis is None:
        raise RuntimeError(f"{jax.default_backend()}: its compiler tells no memory: use the CPU")
    return analysis.temp_size_in_bytes
