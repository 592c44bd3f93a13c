"""Golden checkpoints of Gemma 2: folders that transformers saved, and what it makes of ours.

    python3.11 -m venv goldens && goldens/bin/pip install torch==2.13.0 transformers==5.23.0
    goldens/bin/python tests/goldens/gemma2_checkpoints/make.py .venv/bin/python

Neither is a dependency of matchbook; the argument is a Python that has it. Made, and committed:

    NAME/               what `save_pretrained` of transformers writes: one file, or shards
    NAME.safetensors    tokens, int32 [batch, time], and transformers' logits of them, float32
    ours.json           SHA-256 of each file that matchbook writes when it loads NAME and saves it

Theirs to ours: the test loads NAME and compares logits. Ours to theirs: here, transformers loads
what matchbook saved, finds no tensor missing or unexpected, and must give bit for bit the logits
of its own folder; the test saves again and compares with the digests of what passed here.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

HERE = Path(__file__).parent
BASE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "sliding_window": 5,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",  # the one that applies the soft-cap
}
ODD = {  # every constant that shapes do not tell, none at its default
    "num_hidden_layers": 4,
    "query_pre_attn_scalar": 4,
    "attn_logit_softcapping": 20.0,
    "final_logit_softcapping": 25.0,
    "rms_norm_eps": 1e-2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}
CASES = {
    # name: (what differs from BASE, dtype, bytes of the largest shard)
    "single": ({"num_hidden_layers": 2, "query_pre_attn_scalar": 6}, torch.float32, 10**9),
    "sharded": (ODD, torch.bfloat16, 8_000),
}
SAVE = """
import sys
from matchbook.gemma.checkpoints import load_checkpoint, save_checkpoint
theirs, ours, shard_bytes = sys.argv[1:]
save_checkpoint(load_checkpoint(theirs), ours, max_shard_bytes=int(shard_bytes))
"""


def randomise(model: Gemma2ForCausalLM, seed: int) -> None:
    """Norm scales far from zero; queries, keys and table large enough for both caps to bite."""
    generator = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        noise = generator.standard_normal(tuple(parameter.shape))
        large = any(part in name for part in ("embed_tokens", "q_proj", "k_proj"))
        noise *= 0.5 if noise.ndim == 1 else noise.shape[1] ** -0.5 * (4.0 if large else 1.0)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(noise))


def logits_of(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """What transformers computes in float32 from a folder, in which it finds all it wants."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    assert type(model) is Gemma2ForCausalLM
    with torch.no_grad():
        return model.eval()(input_ids=tokens, use_cache=False).logits


def digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def make(name: str, seed: int, matchbook: str) -> dict[str, str]:
    changes, dtype, shard_bytes = CASES[name]
    model = Gemma2ForCausalLM(Gemma2Config(**BASE | changes))
    randomise(model, seed)
    theirs = HERE / name
    shutil.rmtree(theirs, ignore_errors=True)
    model.to(dtype).save_pretrained(theirs, max_shard_size=shard_bytes)
    generator = np.random.default_rng([seed, 1])
    tokens = torch.from_numpy(generator.integers(1, BASE["vocab_size"], (2, 17)))
    logits = logits_of(theirs, tokens)
    assert logits.abs().max() > 10
    arrays = {"tokens": tokens.numpy().astype(np.int32), "logits": logits.numpy()}
    save_file(arrays, HERE / f"{name}.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "ours"
        subprocess.run([matchbook, "-c", SAVE, theirs, ours, str(shard_bytes)], check=True)
        assert torch.equal(logits_of(ours, tokens), logits)
        stored = AutoModelForCausalLM.from_pretrained(ours, dtype="auto").dtype
        assert stored == dtype, stored
        return digests(ours)


if __name__ == "__main__":
    torch.set_num_threads(1)
    saved = {name: make(name, index, sys.argv[1]) for index, name in enumerate(CASES)}
    (HERE / "ours.json").write_text(json.dumps(saved, indent=2) + "\n")
    for file in sorted(HERE.rglob("*")):
        print(f"{file.relative_to(HERE)}: {file.stat().st_size:,} bytes")
