"""What distillation costs: its step against a step from scratch and the teacher's forward pass."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import jax
from flax import nnx

from bench import gemma
from bench.measure import Row
from matchbook import distill
from matchbook.gemma import Gemma2Config

REPEATS = 3
# Four times the student's weights in layers, over its vocabulary: about as much work forward as
# the student has forward and backward.
TEACHER = Gemma2Config(
    vocab_size=gemma.CONFIG.vocab_size,
    embed_dim=768,
    num_layers=12,
    num_heads=12,
    num_kv_heads=6,
    head_dim=64,
    mlp_dim=3072,
    sliding_window=256,
)


def interleaved(functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median wall seconds of each, warm, taken in turns: a neighbour's load falls on all alike."""
    for function in functions.values():
        jax.block_until_ready(function())
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(REPEATS):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def measured() -> dict[str, float]:
    """Seconds of a step from scratch, of the teacher's forward to logits, and of both in one."""
    config = gemma.CONFIG
    graph, weights = distill.new_model(config, seed=0, unroll=config.num_pairs)
    teacher_graph, teacher_weights = distill.new_model(TEACHER, seed=1, unroll=TEACHER.num_pairs)
    optimizer, rows = distill.adamw(1e-4, 100), gemma.batch()
    state = distill.train_state(weights, optimizer)
    teacher = distill.frozen_teacher(teacher_graph, teacher_weights)
    scratch = jax.jit(distill.pretrain_step(graph, optimizer))
    distilled = jax.jit(lambda step, state, rows: step(state, rows))
    forward = jax.jit(lambda weights, rows: nnx.merge(teacher_graph, weights)(*rows))
    step = distill.distill_step(graph, optimizer, teacher)
    return interleaved(
        {
            "scratch": lambda: scratch(state, rows),
            "teacher": lambda: forward(teacher_weights, rows),
            "distilled": lambda: distilled(step, state, rows),
        }
    )


def rows() -> Iterator[Row]:
    """Yield the table's lines, measuring as they are asked for."""
    taken = measured()
    tokens = gemma.BATCH * gemma.TIME
    work = f"distillation step {gemma.BATCH} x {gemma.TIME}"
    line = {"work": work, "unit": "tokens/s", "ours": tokens / taken["distilled"]}
    parts = taken["scratch"] + taken["teacher"]
    against = "scratch step + teacher forward"
    yield Row(**line, reference=tokens / parts, against=against, bar=1 / 1.25)
    yield Row(**line, reference=tokens / taken["scratch"], against="scratch step alone")
