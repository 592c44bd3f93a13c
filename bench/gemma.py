"""Prefill and training of Gemma 2, beside peers and beside the measured rate of a product."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from bench.measure import Row, matmul_flops_per_second, seconds
from bench.peer import BATCH, CONFIG, TIME, references
from matchbook import distill
from matchbook.corpus import Rows
from matchbook.gemma import accounting

BAR = {"prefill": 2.6, "training step": 2.0}  # against transformers


def batch() -> Rows:
    """Random tokens, one document a row: speed does not depend on what they say."""
    tokens = jax.random.randint(jax.random.key(0), (BATCH, TIME), 0, CONFIG.vocab_size)
    positions = jnp.broadcast_to(jnp.arange(TIME), (BATCH, TIME))
    return Rows(tokens, positions, jnp.ones_like(tokens))


def limit(*, backward: bool) -> float:
    """Tokens per second if every FLOP of the model ran at the rate of one large product."""
    flops = accounting.mean_flops_per_token(CONFIG, TIME, training=backward)
    return matmul_flops_per_second() / flops.total


def prefill() -> float:
    """Tokens per second of one forward pass to logits."""
    graph, weights = distill.new_model(CONFIG, seed=0, unroll=CONFIG.num_pairs)
    forward = jax.jit(lambda weights, rows: nnx.merge(graph, weights)(*rows))
    rows = batch()
    return BATCH * TIME / seconds(lambda: forward(weights, rows))


def train() -> float:
    """Tokens per second of one AdamW step, clipping included; its state is donated, as in `fit`."""
    graph, weights = distill.new_model(CONFIG, seed=0, unroll=CONFIG.num_pairs)
    optimizer = distill.adamw(1e-4, 100)
    step = jax.jit(distill.pretrain_step(graph, optimizer), donate_argnums=0)
    state, rows = distill.train_state(weights, optimizer), batch()

    def update() -> object:
        nonlocal state
        state, metrics = step(state, rows)
        return state, metrics

    return BATCH * TIME / seconds(update, repeats=5)


def rows() -> Iterator[Row]:
    """Yield the table's lines, measuring as they are asked for."""
    for work, rate, backward in (("prefill", prefill, False), ("training step", train, True)):
        line = {"work": f"{work} {BATCH} x {TIME}", "unit": "tokens/s", "ours": rate()}
        for peer, reference in references(work):
            bar = BAR[work] if peer.startswith("transformers") else None
            yield Row(**line, reference=reference, against=peer, bar=bar)
        yield Row(**line, reference=limit(backward=backward), against="all FLOPs at matrix rate")
