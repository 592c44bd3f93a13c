"""Greedy decoding against its limits, every weight read once a token, and against peers.

Unusual: the whole of `generate` is timed, reading the prompt included. Two limits are timed in the
same run, over matrices that no cache holds: a product with one vector, which XLA runs on one core
of a CPU, and a sum, which it runs on all.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from bench.measure import Row, read_bytes_per_second, seconds
from bench.peer import CONFIG, DECODED, NEW, PROMPT, references
from matchbook.gemma import Transformer, accounting
from matchbook.gemma.generation import generate

BARS = {1: 3.0, 8: 3.3}  # rows: against transformers


def whole_sum(rows: int = 8192, columns: int = 4096) -> float:
    """The bytes per second at which the numbers of a matrix of 134 MB are added up."""
    matrix = jnp.ones((rows, columns), jnp.float32)
    add = jax.jit(jnp.sum)
    return matrix.nbytes / seconds(lambda: add(matrix), repeats=25)


def limit(bytes_per_second: float) -> float:
    """Tokens per second of one row if nothing took time but reading each weight once."""
    return bytes_per_second / (4 * accounting.parameter_count(CONFIG).total)


def rate(model: Transformer, batch: int) -> float:
    """Tokens per second of `generate` for so many rows."""
    prompts = [[3 + row] * PROMPT for row in range(batch)]
    taken = seconds(lambda: generate(model, prompts, max_new_tokens=NEW), repeats=9)
    return batch * NEW / taken


def rows() -> Iterator[Row]:
    """Yield the table's lines, measuring as they are asked for."""
    model = Transformer(CONFIG, rngs=nnx.Rngs(0))
    rates = {batch: rate(model, batch) for batch in DECODED}
    for batch, ours in rates.items():
        line = {"work": f"greedy decode of {NEW}, batch {batch}", "unit": "tokens/s", "ours": ours}
        for peer, reference in references(f"decode {batch}"):
            bar = BARS[batch] if peer.startswith("transformers") else None
            yield Row(**line, reference=reference, against=peer, bar=bar)
    line = {"work": f"greedy decode of {NEW}, batch 1", "unit": "tokens/s", "ours": rates[1]}
    against = "weights in matrix-vector products"
    yield Row(**line, reference=limit(read_bytes_per_second()), against=against, bar=0.75)
    yield Row(**line, reference=limit(whole_sum()), against="weights added up, all cores")
