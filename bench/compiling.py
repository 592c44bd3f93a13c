"""What depth costs at compile time: 46 layers against 2, by what the backward pass computes again.

XLA's CPU backend dissolves a loop of one turn: the program of 2 layers is not that of 46 with a
smaller number in it, and the gradient needs no loop that stacks what it keeps; the less is kept,
the less that matters. From 4 layers on there is one program.
"""

import statistics
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from bench.measure import Row
from matchbook.gemma import Gemma2Config
from matchbook.gemma.sharding_plan import abstract_model

BATCH, TIME, REPEATS = 2, 64, 3
MANY = 46
PAIRS = (("layer", 2), ("pair", 2), ("dots", 2), ("none", 2), ("none", 4))  # remat, layers


def seconds(num_layers: int, remat: str) -> float:
    """Seconds to trace, lower and compile one forward and backward pass, nothing cached."""
    config = Gemma2Config(
        vocab_size=256,
        embed_dim=32,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=64,
        sliding_window=16,
    )
    graph, weights = abstract_model(config, remat=remat)
    tokens = jax.ShapeDtypeStruct((BATCH, TIME), jnp.int32)

    def loss(weights: nnx.State, tokens: jax.Array) -> jax.Array:
        return jnp.mean(nnx.merge(graph, weights)(tokens))

    jax.clear_caches()
    start = time.perf_counter()
    jax.jit(jax.value_and_grad(loss)).lower(weights, tokens).compile()
    return time.perf_counter() - start


def rows() -> Iterator[Row]:
    """Yield the table's lines, measuring as they are asked for; depths in turns, medians."""
    seconds(MANY, "none")  # the first compilation of a process pays for more than itself
    for remat, few in PAIRS:
        taken = [(seconds(MANY, remat), seconds(few, remat)) for _ in range(REPEATS)]
        ours, reference = (statistics.median(times) for times in zip(*taken, strict=True))
        yield Row(
            work=f"compile {MANY} layers, remat={remat}",
            unit="per minute",
            ours=60 / ours,
            reference=60 / reference,
            against=f"{few} layers",
            bar=1 / 1.3,
        )
