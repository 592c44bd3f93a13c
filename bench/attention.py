"""A local layer's attention over a long prompt: in blocks, against the definition."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp

from bench.measure import Row, seconds
from matchbook.gemma.attention.blockwise import blockwise_attention
from matchbook.gemma.attention.dense import dense_attention

TIME, WINDOW, HEADS, KV_HEADS, HEAD_DIM = 8192, 1024, 8, 4, 64


def inputs() -> dict[str, jax.Array]:
    """One row of one document, float32."""
    keys = dict(zip("qkv", jax.random.split(jax.random.key(0), 3), strict=True))
    shapes = {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}
    place = jnp.arange(TIME, dtype=jnp.int32)[None]
    rows = {"positions": place, "segments": jnp.ones_like(place)}
    return rows | {
        name: jax.random.normal(keys[name], (1, TIME, heads, HEAD_DIM), jnp.float32)
        for name, heads in shapes.items()
    }


def compiled(attention: Callable[..., jax.Array]) -> jax.stages.Compiled:
    """The forward pass of a local layer, for `inputs`."""
    local = partial(attention, window=WINDOW, softcap=50.0, scale=HEAD_DIM**-0.5)
    shapes = jax.eval_shape(inputs)
    return jax.jit(lambda given: local(**given)).lower(shapes).compile()


def rows() -> Iterator[Row]:
    """Yield the table's lines, measuring as they are asked for."""
    given = inputs()
    blocks, dense = compiled(blockwise_attention), compiled(dense_attention)
    common = {"work": f"local attention 1 x {TIME}, window {WINDOW}", "against": "dense"}
    yield Row(
        unit="tokens/s",
        ours=TIME / seconds(lambda: blocks(given)),
        reference=TIME / seconds(lambda: dense(given), repeats=3),
        bar=1 / 0.3,
        **common,
    )
    temporary = [x.memory_analysis().temp_size_in_bytes / 2**20 for x in (blocks, dense)]
    yield Row(
        unit="tokens/MiB temp",
        ours=TIME / temporary[0],
        reference=TIME / temporary[1],
        bar=1 / 0.25,
        **common,
    )
