"""Golden files for Gemma 2, made by transformers (another implementation) on random weights.

    python3.11 -m venv goldens && goldens/bin/pip install torch==2.13.0 transformers==5.23.0
    goldens/bin/python tests/goldens/gemma2/make.py

Neither is a dependency of matchbook: the files beside this script are committed, and this makes
them again, byte for byte on the same machine. Each is a safetensors file:

    metadata            one JSON text: config (a config.json), versions, how hard the caps bite
    weights/NAME        float16, exact: the model ran on these numbers in float32
    gradients/NAME      float32, of the loss with respect to every weight
    tokens, segments    int32 [batch, time]; segments number the documents of a row, 0 is padding
    logits              float32 [batch, time, vocab]; zeros at padding, where they mean nothing
    loss                float32 []: mean of -log p(next token) over pairs within one document

Before a file is written, its case is run again with one mistake at a time (window, caps, query
scale, order of layers, grouping of heads, norms) and each must move the logits by 100 times the
tolerance of the tests: there is no golden file that such a mistake could pass.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers import Gemma2Config, Gemma2ForCausalLM
from transformers.models.gemma2 import modeling_gemma2

TOLERANCE = 1e-5  # of the tests, on logits relative to the largest
BASE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "query_pre_attn_scalar": 6,
    "sliding_window": 5,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 64,
}
EIGHT_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 4}
CASES = {
    # name: (what differs from BASE, for each row the lengths of the documents that end it)
    "scale_as_27b": ({"head_dim": 8, "query_pre_attn_scalar": 4}, [[17], [17]]),
    "scale_of_neither": ({"head_dim": 8, "query_pre_attn_scalar": 11}, [[17], [17]]),
    "multi_head": ({"num_key_value_heads": 4, "head_dim": 4}, [[17], [17]]),
    "four_to_one": (EIGHT_HEADS | {"query_pre_attn_scalar": 4}, [[17], [17]]),
    "multi_query_wide_head": ({"num_key_value_heads": 1, "head_dim": 16}, [[17], [17]]),
    "window_odd": ({"sliding_window": 3}, [[22], [22]]),
    "window_one": ({"sliding_window": 1}, [[12], [12]]),
    "window_longer_than_text": ({"sliding_window": 40}, [[13], [13]]),
    "left_padding": ({"sliding_window": 4}, [[19], [11], [2]]),
    "packed": ({"sliding_window": 4}, [[9, 1, 10], [6, 14]]),
    "no_caps": ({"attn_logit_softcapping": None, "final_logit_softcapping": None}, [[17], [17]]),
    "deep": (
        EIGHT_HEADS | {"num_hidden_layers": 6, "query_pre_attn_scalar": 2, "sliding_window": 2},
        [[22], [7]],
    ),
}


def build(config: dict, weights: dict[str, np.ndarray]) -> Gemma2ForCausalLM:
    """Their model on our weights, with eager attention: the one that applies the soft-cap."""
    model = Gemma2ForCausalLM(Gemma2Config(**config, attn_implementation="eager")).eval()
    assert model.config._attn_implementation == "eager"
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in weights.items()}
    result = model.load_state_dict(state, strict=False)
    assert result.missing_keys == ["lm_head.weight"], result
    assert not result.unexpected_keys, result
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model


def random_weights(config: dict, seed: int) -> dict[str, np.ndarray]:
    """Norm scales far from zero; queries, keys and table large enough for both caps to bite."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name, parameter in Gemma2ForCausalLM(Gemma2Config(**config)).named_parameters():
        noise = generator.standard_normal(tuple(parameter.shape))
        if noise.ndim == 1:
            noise *= 0.5
        else:
            large = ("embed_tokens", "q_proj", "k_proj")
            noise *= noise.shape[1] ** -0.5 * (4.0 if any(part in name for part in large) else 1.0)
        weights[name] = noise.astype(np.float16)
    return weights


def run(model: Gemma2ForCausalLM, tokens: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """Their logits. They find packed documents where positions restart, if given no mask."""
    padding = (segments == 0).sum(1, keepdim=True)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    places = torch.arange(segments.shape[1]).expand_as(segments)
    positions = places - torch.where(starts, places, 0).cummax(1).values
    packed = segments.max() > 1
    assert not (packed and padding.any()), "they cannot do both"
    mask = None if packed else (segments > 0).long()
    logits = model(
        input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
    ).logits
    return logits * (segments > 0)[:, :, None]


def next_token_loss(
    logits: torch.Tensor, tokens: torch.Tensor, segments: torch.Tensor
) -> torch.Tensor:
    """Not transformers' own, which also predicts the first token of a row from its padding."""
    log_probs = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    counted = (segments[:, :-1] == segments[:, 1:]) & (segments[:, 1:] > 0)
    return -log_probs[counted].mean()


def mistakes(
    config: dict, weights: dict[str, np.ndarray], longest: int
) -> Iterator[tuple[str, dict, dict[str, np.ndarray]]]:
    """Each well-known mistake that this case could reveal: its name, config and weights."""
    window, heads = config["sliding_window"], config["num_attention_heads"]
    kv_heads, head_dim = config["num_key_value_heads"], config["head_dim"]
    if window < longest:
        yield "window + 1", config | {"sliding_window": window + 1}, weights
        yield "no window", config | {"sliding_window": longest}, weights
        swapped = ["full_attention", "sliding_attention"] * (config["num_hidden_layers"] // 2)
        yield "even layers global", config | {"layer_types": swapped}, weights
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config[cap] is not None:
            yield f"no {cap}", config | {cap: None}, weights
    for scalar in {head_dim, config["hidden_size"] // heads} - {config["query_pre_attn_scalar"]}:
        yield f"query scalar {scalar}", config | {"query_pre_attn_scalar": scalar}, weights
    if 1 < kv_heads < heads:
        dealt = dict(weights)
        for name in weights:
            if "q_proj" in name:
                grouped = weights[name].reshape(kv_heads, heads // kv_heads, head_dim, -1)
                dealt[name] = grouped.swapaxes(0, 1).reshape(weights[name].shape)
        yield "key/value heads dealt out in turn", config, dealt
    yield "norm scales ignored", config, {k: v * (v.ndim > 1) for k, v in weights.items()}


def largest_score(model: Gemma2ForCausalLM, *inputs: torch.Tensor) -> float:
    """Largest |attention score| that any query and earlier key reach before the cap."""
    largest = 0.0
    original = modeling_gemma2.eager_attention_forward

    def watching(module, query, key, *rest, **options):
        nonlocal largest
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = (query @ keys.transpose(2, 3) * options["scaling"]).tril()
        largest = max(largest, scores.abs().max().item())
        return original(module, query, key, *rest, **options)

    modeling_gemma2.eager_attention_forward = watching
    run(model, *inputs)
    modeling_gemma2.eager_attention_forward = original
    assert largest > 0
    return largest


def rows(documents: list[list[int]], vocab_size: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Random tokens and their segments, right-aligned."""
    generator = np.random.default_rng([seed, 1])
    time = max(map(sum, documents))
    segments = np.zeros((len(documents), time), np.int64)
    for row, lengths in zip(segments, documents):
        row[time - sum(lengths) :] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    tokens = generator.integers(1, vocab_size, segments.shape) * (segments > 0)
    return torch.from_numpy(tokens), torch.from_numpy(segments)


def make(name: str, seed: int, folder: Path) -> None:
    changes, documents = CASES[name]
    config = BASE | changes
    weights = random_weights(config, seed)
    tokens, segments = rows(documents, config["vocab_size"], seed)
    model = build(config, weights)
    logits = run(model, tokens, segments)
    loss = next_token_loss(logits, tokens, segments)
    loss.backward()
    size = logits.abs().max()
    with torch.no_grad():
        for mistake, other, other_weights in mistakes(config, weights, tokens.shape[1]):
            moved = (run(build(other, other_weights), tokens, segments) - logits).abs().max() / size
            assert moved > 100 * TOLERANCE, f"{name} is blind to '{mistake}': {moved:.1e}"
        if segments.max() > 1:
            for document in segments[0].unique():
                where = segments[:1] == document
                alone = run(model, tokens[:1][where][None], torch.ones(1, int(where.sum())).long())
                assert (alone[0] - logits[:1][where]).abs().max() / size < TOLERANCE
        score = largest_score(model, tokens, segments)
        uncapped = build(config | {"final_logit_softcapping": None}, weights)
        logit = run(uncapped, tokens, segments).abs().max().item()
    metadata = {
        "config": model.config.to_diff_dict(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "attn_implementation": model.config._attn_implementation,
        "largest_score_before_cap": round(score, 1),
        "largest_logit_before_cap": round(logit, 1),
    }
    arrays = {f"weights/{key}": array for key, array in weights.items()}
    arrays |= {f"gradients/{key}": value.grad.numpy() for key, value in model.named_parameters()}
    arrays["tokens"] = tokens.numpy().astype(np.int32)
    arrays["segments"] = segments.numpy().astype(np.int32)
    arrays["logits"], arrays["loss"] = logits.detach().numpy(), loss.detach().numpy()
    path = folder / f"{name}.safetensors"
    save_file(arrays, path, {"golden": json.dumps(metadata, sort_keys=True)})
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, score {score:.0f}, logit {logit:.0f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for index, case in enumerate(CASES):
        make(case, index, Path(__file__).parent)
