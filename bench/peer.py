"""Peers at the same work in the same run, each in an environment of its own.

None is a dependency. Tell a peer's Python by an environment variable, and it is measured beside
ours; without it, transformers' rates noted earlier stand in its place, and the line says so.

    BENCH_TRANSFORMERS=.../bin/python   # with torch 2.13 and transformers 5.24
    BENCH_GEMMA=.../bin/python          # with gemma 4.0.1, jax 0.11.2 and sentencepiece 0.2.1
"""

import functools
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matchbook.gemma import Gemma2Config

CONFIG = Gemma2Config(
    vocab_size=8192,
    embed_dim=512,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    mlp_dim=2048,
    sliding_window=256,
)
BATCH, TIME = 4, 512  # prefill and training
PROMPT, NEW, DECODED = 8, 64, (1, 8)  # greedy decoding: tokens, new tokens, rows
SCRIPTS = {"BENCH_TRANSFORMERS": "transformers_gemma2.py", "BENCH_GEMMA": "google_gemma.py"}
# transformers 5.23, eager, float32, 2 threads: tokens per second, once, on such a machine. The
# middle of 430 to 470 for training.
NOTED = {"prefill": 1380.0, "training step": 450.0, "decode 1": 74.0, "decode 8": 350.0}


def references(work: str) -> Iterator[tuple[str, float]]:
    """Each peer's name and its tokens per second at `work`, transformers first.

    Raises:
      RuntimeError: a peer failed; with the end of what it said.
    """
    if not os.environ.get("BENCH_TRANSFORMERS"):
        yield "transformers 5.23, noted earlier", NOTED[work]
    for variable in SCRIPTS:
        if python := os.environ.get(variable):
            peer, rates = _rates(python, SCRIPTS[variable])
            yield peer, rates[work]


@functools.cache
def _rates(python: str, script: str) -> tuple[str, dict[str, float]]:
    request = {"model": asdict(CONFIG), "batch": BATCH, "time": TIME}
    request |= {"prompt": PROMPT, "new": NEW, "decode": DECODED}
    answer = answer_of(python, script, request)
    return answer["peer"], answer["rates"]


def answer_of(python: str, script: str, request: dict[str, Any]) -> dict[str, Any]:
    """What a script of `bench/peers` answers to a request, run by a peer's Python.

    Raises:
      RuntimeError: it failed; with the end of what it said.
    """
    command = [python, str(Path(__file__).parent / "peers" / script)]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
