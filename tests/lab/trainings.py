"""Every kind of training, one after the other, each from what the last has learned: to be killed.

A mark in the log for each batch drawn says which kind is at work.
"""

import functools
import time

import grain  # noqa: F401 (here once, not in every child)
import jax
import jax.numpy as jnp
import numpy as np
import optax

from matchbook import corpus, distill, lab
from matchbook.corpus import synthetic
from matchbook.distill import teacher_cache
from matchbook.gemma import Gemma2Config

KINDS = {"scratch": "a", "distilled": "b", "sft": "c", "on_policy": "d", "offline": "e"}
NUM_STEPS, PROMPT, TIME, BATCH = 16, 4, 10, 2
CONFIG = Gemma2Config(
    vocab_size=23,
    embed_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=32,
    sliding_window=4,
)
OPTIMIZER = optax.adam(1e-2)
WRITING = distill.Writing(num_new=TIME - PROMPT, stop_tokens=(1,))


class Marked:
    """A stream of Grain's that leaves a mark for each draw, and takes its time."""

    def __init__(self, rows, seed, mark, log):
        self.stream, self.mark, self.log = corpus.batches(rows, BATCH, seed), mark, log
        self.get_state, self.set_state = self.stream.get_state, self.stream.set_state

    def __next__(self):
        with self.log.open("a") as log:
            log.write(self.mark)
        time.sleep(0.01)
        return next(self.stream)


def dialogues(rows):
    """The same rows as prompts and answers."""
    answers = rows.tokens[:, PROMPT:]
    lengths = np.full(len(answers), TIME - PROMPT, np.int32)
    return distill.Dialogues(*(part[:, :PROMPT] for part in rows), answers, lengths)


def answer_rows(rows):
    pairs = [(row[:PROMPT].tolist(), row[PROMPT:].tolist()) for row in rows.tokens]
    return distill.answer_rows(pairs, TIME)


def cached_rows(rows, teacher, weights):
    key = teacher_cache.content_key(rows, CONFIG, weights, 3)
    dtype = teacher_cache.row_dtype(3, CONFIG.vocab_size)
    folder = lab.session().runs / "cache"
    with corpus.TokenStoreWriter(folder, key, dtype) as store:
        distill.write_cache(teacher, rows, 3, store, batch_size=BATCH)
    stored = corpus.read_token_store(folder, key, dtype, rows.tokens.size)
    return distill.cached_rows(rows, stored)


def steps_and_data(graph, teacher, teacher_weights, rows):
    """For each kind, how a step is made and what it reads; both only when its turn has come."""
    make, given = functools.partial, {"student_share": 0.7}
    return {
        "scratch": (make(distill.pretrain_step, graph, OPTIMIZER), lambda: rows),
        "distilled": (make(distill.distill_step, graph, OPTIMIZER, teacher), lambda: rows),
        "sft": (make(distill.sft_step, graph, OPTIMIZER), lambda: answer_rows(rows)),
        "on_policy": (
            make(distill.on_policy_step, graph, OPTIMIZER, teacher, WRITING, **given),
            lambda: dialogues(rows),
        ),
        "offline": (
            make(distill.offline_step, graph, OPTIMIZER),
            lambda: cached_rows(rows, teacher, teacher_weights),
        ),
    }


def number(tree):
    """48 bits of a digest of every bit."""
    return int(teacher_cache.digest(tree)[:12], 16)


def measure(log, arm, seed):
    rows = synthetic.Language(CONFIG.vocab_size).rows(7, TIME, seed=seed)
    graph, weights = distill.new_model(CONFIG, seed)
    teacher_weights = distill.new_model(CONFIG, seed + 1)[1]
    teacher = distill.frozen_teacher(graph, teacher_weights)
    numbers, curves = {}, {}
    kinds = steps_and_data(graph, teacher, teacher_weights, rows)
    for kind, (make_step, data) in kinds.items():
        start = functools.partial(distill.on_policy_state, seed=seed)
        start = start if kind == "on_policy" else distill.train_state
        stream = Marked(data(), seed, KINDS[kind], log)
        state, history = lab.fit(
            make_step(), start(weights, OPTIMIZER), stream, num_steps=NUM_STEPS, name=kind,
            log_every=3, checkpoint_every=2,
        )  # fmt: skip
        weights = state.weights
        numbers[f"{kind}.state"] = number([np.asarray(x) for x in _arrays(state)])
        numbers[f"{kind}.next_batch"] = number(next(stream.stream).tokens)
        curves |= {f"{kind}.{name}": curve for name, curve in history.items()}
    return lab.Measured(numbers, curves)


def _arrays(state):
    """Everything that a step changes, its key too, as plain arrays."""
    return [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(state)
    ]
