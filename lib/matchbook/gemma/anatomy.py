"""What `gemma2/01_anatomy` measures on the three real sizes: counts, rules, costs; no weights.

Unusual: Tables 1 and 2 are read off the arrays of the real `Transformer`, whose shapes
`jax.eval_shape` finds without allocating anything; `accounting` reaches the same by arithmetic.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from matchbook.gemma import accounting, layouts
from matchbook.gemma.attention import attention, visible
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.layers import Embedder, embedding_scale, soft_cap
from matchbook.gemma.model import Transformer

Curves = dict[str, tuple[np.ndarray, np.ndarray]]


@cache
def weight_shapes(config: Gemma2Config) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every array of the model, such as `pairs.local_layer.mlp.gate`.

    Arrays of layers have a leading axis of `config.num_pairs`. Nothing is allocated.
    """
    model = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    weights = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {".".join(map(str, path)): tuple(weight.shape) for path, weight in weights}


def counted_parameters(config: Gemma2Config) -> accounting.Parameters:
    """Table 2 counted on the model's arrays, in the parts of `accounting.parameter_count`.

    Raises:
      ValueError: an array that belongs to no part, so that none goes uncounted.
    """
    counts = dict.fromkeys(
        ("embedding", "query", "key", "value", "output", "mlp", "norms", "final_norm"), 0
    )
    for path, shape in weight_shapes(config).items():
        counts[_part_of(path)] += math.prod(shape)
    once = ("embedding", "final_norm")
    per_layer = {
        part: count if part in once else count // config.num_layers
        for part, count in counts.items()
    }
    return accounting.Parameters(num_layers=config.num_layers, **per_layer)


def _part_of(path: str) -> str:
    names = path.split(".")
    parts = {
        "embedder": "embedding",
        "final_norm": "final_norm",
        "query": "query",
        "key": "key",
        "value": "value",
        "output": "output",
        "mlp": "mlp",
        "scale": "norms",
    }
    for name, part in parts.items():
        if name in names:
            return part
    raise ValueError(f"expected one of {list(parts)} in the path of every array, got {path!r}")


def table_1(config: Gemma2Config) -> dict[str, int]:
    """The numbers of Table 1, read off the model's arrays where an array shows them."""
    shapes = weight_shapes(config)
    vocab, d_model = shapes["embedder.table"]
    layer = "pairs.local_layer"
    pairs, _, heads, head_size = shapes[f"{layer}.attention.query"]
    mlp = shapes[f"{layer}.mlp.gate"][-1] + shapes[f"{layer}.mlp.up"][-1]
    return {
        "d_model": d_model,
        "layers": 2 * pairs,
        "feedforward_dim": mlp,
        "heads": heads,
        "kv_heads": shapes[f"{layer}.attention.key"][2],
        "head_size": head_size,
        "global_span": config.max_context,
        "sliding_window": config.sliding_window,
        "vocab": vocab,
    }


def table_2(config: Gemma2Config) -> dict[str, int]:
    """Parameter counts by part, whole and per layer, with 256,128 and with 256,000 rows."""
    counted = counted_parameters(config)
    narrow = dataclasses.replace(config, vocab_size=layouts.HUGGING_FACE_ROWS)
    return {
        "embedding": counted.embedding,
        "non_embedding": counted.non_embedding,
        "total": counted.total,
        "total_256000_rows": counted_parameters(narrow).total,
        "per_layer": counted.per_layer,
        "attention": counted.attention,
        "mlp": counted.mlp,
        "norms": counted.norms,
        "arithmetic_total": accounting.parameter_count(config).total,
    }


def checkpoint_counts(config: Gemma2Config) -> dict[str, int]:
    """Tensors in each checkpoint layout, and the parameters that they add up to."""
    narrow = dataclasses.replace(config, vocab_size=layouts.HUGGING_FACE_ROWS)
    hugging_face = layouts.hugging_face_shapes(narrow)
    flax = layouts.flax_shapes(config, transposed_gate=config.num_layers > 26)
    return {
        "hf_tensors": len(hugging_face),
        "hf_parameters": sum(map(math.prod, hugging_face.values())),
        "flax_leaves": len(flax),
        "flax_parameters": sum(map(math.prod, flax.values())),
    }


def rules(config: Gemma2Config) -> dict[str, float]:
    """What Table 1 leaves to the code: scales of embeddings and queries, order of layers."""
    return {
        "first_layer_is_local": float(config.layer_types[0] == "local"),
        "last_layer_is_global": float(config.layer_types[-1] == "global"),
        "local_layers": float(config.layer_types.count("local")),
        "sqrt_d": math.sqrt(config.embed_dim),
        "sqrt_d_bf16": float(embedding_scale(config.embed_dim, jnp.bfloat16)),
        "query_scale": config.query_scale,
        "head_size_scale": config.head_dim**-0.5,
    }


def masks(window: int, time: int) -> Curves:
    """Who sees whom among `time` tokens, in a local and in a global layer.

    Returns `local` and `global`, the [time, time] mask flattened row by row, and the number of keys
    that each position sees, `local.keys` and `global.keys`.
    """
    positions = jnp.arange(time, dtype=jnp.int32)[None, :]
    segments = jnp.ones_like(positions)
    curves: Curves = {}
    for kind, span in {"local": window, "global": None}.items():
        mask = np.asarray(visible(positions, segments, span))[0]
        curves[kind] = np.arange(time * time), mask.ravel().astype(float)
        curves[f"{kind}.keys"] = np.arange(time), mask.sum(axis=-1).astype(float)
    return curves


def caps(config: Gemma2Config) -> dict[str, float]:
    """What the soft-caps do to the real functions at their limits.

    `score_limit` and `logit_limit`: the largest score and logit that can leave them, asked of
    the functions with inputs a million large. `slope_at_zero`: of the attention cap.
    `visible_weight`: the attention that the only visible key of two gets when its score is the
    lowest there is; were the mask applied before the cap, it would be 1/2.
    """
    cap = partial(soft_cap, cap=config.attention_softcap)
    tiny = dataclasses.replace(config, vocab_size=8, embed_dim=4)
    embedder = Embedder(tiny, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32)
    huge = jnp.full((1, 4), 1e6, jnp.float32)
    return {
        "score_limit": float(cap(jnp.float32(1e6))),
        "logit_limit": float(jnp.max(jnp.abs(embedder.decode(huge)))),
        "slope_at_zero": float(jax.grad(cap)(jnp.float32(0.0))),
        "visible_weight": _visible_weight(config),
    }


def _visible_weight(config: Gemma2Config) -> float:
    """Token 0 sees only itself, with a score of -1e6; its output is the weight of token 0."""
    row = jnp.full((1, 2, 1, 1), 1e3, jnp.float32)
    order = jnp.arange(2, dtype=jnp.int32)[None, :]
    value = (1 - order).astype(jnp.float32)[:, :, None, None]
    out = attention(
        row,
        -row,
        value,
        positions=order,
        segments=jnp.ones_like(order),
        window=None,
        softcap=config.attention_softcap,
        scale=1.0,
    )
    return float(out[0, 0, 0, 0])


def cap_curves(config: Gemma2Config, points: int = 121) -> Curves:
    """x -> cap * tanh(x / cap) from -120 to 120, for attention scores and for logits."""
    x = np.linspace(-120.0, 120.0, points)
    both = {"cap.attention": config.attention_softcap, "cap.logits": config.final_softcap}
    return {
        name: (x, np.asarray(soft_cap(jnp.asarray(x, jnp.float32), cap)))
        for name, cap in both.items()
    }


def flops_curves(config: Gemma2Config, contexts: Sequence[int]) -> Curves:
    """FLOPs per token of reading a document, against its length: `flops.` and the part's name."""
    parts = [accounting.mean_flops_per_token(config, length).by_part() for length in contexts]
    grouped = [
        {
            "mlp": part["mlp"],
            "projections": part["query"] + part["key"] + part["value"] + part["output"],
            "unembedding": part["unembedding"],
            "local_attention": part["local_attention"],
            "global_attention": part["global_attention"],
        }
        for part in parts
    ]
    return {
        f"flops.{name}": (np.asarray(contexts), np.array([part[name] for part in grouped]))
        for name in grouped[0]
    }


def cache_per_token(config: Gemma2Config) -> dict[str, int]:
    """Bytes that one token adds to a bfloat16 cache, in all layers; and without grouped heads."""
    ungrouped = dataclasses.replace(config, num_kv_heads=config.num_heads)
    return {
        "cache_bytes_per_token": accounting.cache_bytes_per_token(config),
        "cache_bytes_per_token_mha": accounting.cache_bytes_per_token(ungrouped),
    }


def cache_curves(config: Gemma2Config, contexts: Sequence[int]) -> Curves:
    """Bytes of the bfloat16 key/value cache against context: as it is, and with less thrift.

    `cache.ring`: local layers keep a window. `cache.all_global`: every layer keeps everything.
    `cache.no_groups`: that, and a key/value head for every query head.
    """
    ungrouped = dataclasses.replace(config, num_kv_heads=config.num_heads)
    designs = {
        "ring": partial(accounting.cache_bytes, config),
        "all_global": partial(accounting.cache_bytes, config, ring=False),
        "no_groups": partial(accounting.cache_bytes, ungrouped, ring=False),
    }
    return {
        f"cache.{name}": (np.asarray(contexts), np.array([float(f(c).total) for c in contexts]))
        for name, f in designs.items()
    }
