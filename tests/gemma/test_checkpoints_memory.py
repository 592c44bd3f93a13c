"""Peak host memory of loading and saving: at most 1.15 times the model, in a process of its own."""

import subprocess
import sys

import pytest

MEASURE = """
import os, sys, zlib
import numpy as np
import jax
import orbax.checkpoint
from flax import nnx
from matchbook.gemma import Gemma2Config, Transformer
from matchbook.gemma.checkpoints import load_checkpoint, save_checkpoint, weights

def now():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def peak():  # not getrusage's, which begins with that of the process it was forked from
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))

def model_of(config):
    host = weights.HostWeights(config, np.dtype(np.float32))
    generator = np.random.default_rng(0)  # zeros would be compressed to nothing
    for array in host._arrays.values():
        generator.standard_normal(out=array, dtype=np.float32)
    return host.to_model()

action, folder = sys.argv[1:]
config = Gemma2Config(vocab_size=16_000, embed_dim=640, num_layers=12, num_heads=8,
                      num_kv_heads=4, head_dim=64, mlp_dim=2048)
tiny = Gemma2Config(vocab_size=8, embed_dim=4, num_layers=2, num_heads=2, num_kv_heads=1,
                    head_dim=2, mlp_dim=6)
layouts = ("hugging_face", "flax")
for layout in layouts:  # what is imported and started once
    save_checkpoint(model_of(tiny), f"{folder}/{action}_{layout}", layout=layout)
    load_checkpoint(f"{folder}/{action}_{layout}")
model = None
before = now()
if action == "save":
    model = model_of(config)
for layout in layouts:
    if action == "save":
        save_checkpoint(model, f"{folder}/{layout}", layout=layout, max_shard_bytes=100_000_000)
    else:
        model = leaves = None
        model = load_checkpoint(f"{folder}/{layout}")
    leaves = weights.leaves_of(model)
    size = sum(leaf.nbytes for leaf in leaves.values())
    print(layout, size, peak() - before, [zlib.crc32(leaves[path]) for path in sorted(leaves)])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory(tmp_path):
    contents = set()
    for action in ("save", "load"):
        command = [sys.executable, "-c", MEASURE, action, str(tmp_path)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        for line in result.stdout.splitlines():
            layout, size, peak, content = line.split(maxsplit=3)
            contents.add(content)
            ratio = int(peak) / int(size)
            print(f"{action} {layout}: {int(size) / 1e6:.0f} MB, peak {ratio:.3f} times that")
            assert int(size) > 250e6
            assert 1 <= ratio <= 1.15, f"{action} {layout}: {ratio:.3f} times the model"
    assert len(contents) == 1  # what was saved in many blocks and chunks is what was loaded
