"""A step of J-BOND against TRL's nearest trainer, and where its time goes.

Sequences are generations: J-BOND makes three for each prompt, RLOO here two, so that a step of ours
holds half as many again. Both learn from what they generate in the same step.

    BENCH_TRL=.../bin/python   # with torch 2.13, transformers 5.24 and trl 1.16
"""

import gzip
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp

from bench.measure import Row, seconds
from bench.peer import answer_of
from matchbook import distill
from matchbook.bond import algorithms, sequences
from matchbook.gemma import Gemma2Config

CONFIG = Gemma2Config(
    vocab_size=512,
    embed_dim=256,
    num_layers=8,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=1024,
    sliding_window=64,
)
PROMPTS, PROMPT_TIME, NEW = 64, 64, 32
PER_PROMPT = 3  # of J-BOND: one of the policy, two of the anchor
NOT_WORK = ("while", "call", "conditional")  # XLA's operations that only hold others
NOTED = 10.3  # sequences/s of TRL 1.16, RLOO, 64 prompts x 2: 12.4 s a step on 2 such cores, once
BAR, SHARE_BAR = 3.5, 0.7


class Compiled:
    """The step, compiled for one batch of random prompts."""

    def __init__(self) -> None:
        graph, weights = distill.new_model(CONFIG, seed=0, remat="dots", unroll=CONFIG.num_pairs)
        shape = (PROMPTS, PROMPT_TIME)
        tokens = jax.random.randint(jax.random.key(0), shape, 0, CONFIG.vocab_size)
        self.prompts = sequences.TokenPrompts(tokens, jnp.ones_like(tokens))
        policy, optimizer = sequences.transformer_policy(graph, NEW), algorithms.adam(1e-4)
        step = algorithms.jbond_step(policy, optimizer, count, algorithms.ema(0.02))
        self.state = algorithms.policy_state(weights, optimizer, seed=0)
        self._step = jax.jit(step).lower(self.state, self.prompts).compile()

    def step(self) -> object:
        return self._step(self.state, self.prompts)

    def products(self) -> set[str]:
        """Names of the step's operations that are matrix products, or hold one."""
        blocks = re.split(r"\n(?=%|ENTRY )", self._step.as_text())
        holding = {block.split()[0] for block in blocks if " dot(" in block}
        found = set()
        for name, rest in re.findall(r"%(\S+) = (.*)", "\n".join(blocks)):
            called = re.search(r"calls=(%[\w.-]+)", rest)
            if " dot(" in rest or (called and called[1] in holding):
                found.add(name)
        return found


def count(prompts: sequences.TokenPrompts, answers: jax.Array) -> jax.Array:
    """A reward that costs nothing: how often token 7 is in the answer."""
    return jnp.sum(answers == 7, axis=-1).astype(jnp.float32)


def share_of_products(compiled: Compiled) -> float:
    """Of the time that a profile gives to the step's operations, the share of matrix products."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled.step())
        (path,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    spent, products = {True: 0.0, False: 0.0}, compiled.products()
    for event in events:
        name = event.get("args", {}).get("hlo_op")
        if name is not None and not name.startswith(NOT_WORK):
            spent[name in products] += event["dur"]
    return spent[True] / sum(spent.values())


def peer() -> tuple[str, float]:
    """TRL's name and sequences per second: measured now, or as noted where it is not told."""
    python = os.environ.get("BENCH_TRL")
    if not python:
        return "TRL 1.16 RLOO, noted earlier", NOTED
    request = {"model": asdict(CONFIG), "prompts": PROMPTS, "prompt_time": PROMPT_TIME}
    answer = answer_of(python, "trl_rloo.py", request | {"new": NEW, "generations": 2, "steps": 6})
    return answer["peer"], answer["rates"]["sequences"]


def rows() -> Iterator[Row]:
    """Yield the table's lines, measuring as they are asked for."""
    compiled = Compiled()
    rate = PROMPTS * PER_PROMPT / seconds(compiled.step, repeats=9)  # memory settles in some steps
    line = {
        "work": f"J-BOND, {PROMPTS} prompts x {PER_PROMPT}",
        "unit": "sequences/s",
        "ours": rate,
    }
    against, reference = peer()
    yield Row(**line, reference=reference, against=against, bar=BAR)
    alone = rate / share_of_products(compiled)
    yield Row(**line, reference=alone, against="its matrix products alone", bar=SHARE_BAR)
