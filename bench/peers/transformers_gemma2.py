"""Hugging Face transformers, eager, at the work of `bench/gemma.py` and `bench/decode.py`.

Run by the Python that has torch and transformers. Reads the model's sizes as JSON on standard
input, writes tokens per second of each work as JSON on standard output.
"""

import json
import statistics
import sys
import time

import torch
import transformers


def model_of(sizes: dict) -> transformers.Gemma2ForCausalLM:
    config = transformers.Gemma2Config(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["embed_dim"],
        intermediate_size=sizes["mlp_dim"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        num_key_value_heads=sizes["num_kv_heads"],
        head_dim=sizes["head_dim"],
        query_pre_attn_scalar=sizes["head_dim"],
        sliding_window=sizes["sliding_window"],
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    return transformers.Gemma2ForCausalLM(config)


def seconds(work, repeats: int) -> float:
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    asked = json.load(sys.stdin)
    batch, width = asked["batch"], asked["time"]
    model = model_of(asked["model"])
    tokens = torch.randint(0, asked["model"]["vocab_size"], (batch, width))

    @torch.no_grad()
    def prefill():
        return model(tokens, use_cache=False).logits

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def train():
        optimizer.zero_grad()
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    @torch.no_grad()
    def decode(rows):
        prompt = torch.full((rows, asked["prompt"]), 3)
        new = asked["new"]
        options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        return model.generate(prompt, max_new_tokens=new, min_new_tokens=new, **options)

    rates = {"prefill": batch * width / seconds(prefill, 5)}
    for rows in asked["decode"]:
        rates[f"decode {rows}"] = rows * asked["new"] / seconds(lambda rows=rows: decode(rows), 5)
    rates["training step"] = batch * width / seconds(train, 3)
    peer = f"transformers {transformers.__version__}, eager"
    json.dump({"peer": peer, "rates": rates}, sys.stdout)


if __name__ == "__main__":
    main()
