"""Hugging Face's `config.json` for Gemma 2, read with suspicion and written in full.

Unusual: whatever would change what the model computes is understood or refused, in the older
spelling (`rope_theta`, `sliding_window_size`, `hidden_act`) and in the newer (`rope_parameters`,
`layer_types`, `hidden_activation`). Keys that do not touch the computation are ignored.
"""

from collections.abc import Mapping
from typing import Any

SIZES = {
    "vocab_size": "vocab_size",
    "embed_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_dim": "intermediate_size",
}
"""Our field -> their key; a file must have all of these."""

CONSTANTS = {
    "sliding_window": ("sliding_window", 4096),
    "attention_softcap": ("attn_logit_softcapping", 50.0),
    "final_softcap": ("final_logit_softcapping", 30.0),
    "query_pre_attn_scalar": ("query_pre_attn_scalar", 256),
    "norm_eps": ("rms_norm_eps", 1e-6),
    "max_context": ("max_position_embeddings", 8192),
}
"""Our field -> their key, and what transformers takes where a file does not say."""

ACTIVATION = "gelu_pytorch_tanh"
LAYER_TYPES = ("sliding_attention", "full_attention")
NULLABLE = ("attn_logit_softcapping", "final_logit_softcapping")


def read(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Gemma2Config` from a parsed `config.json`; raises ValueError, see `from_hf`."""
    _require(mapping, "model_type", "gemma2")
    _refuse_what_gemma2_is_not(mapping)
    fields = {ours: _number(mapping, theirs, whole=True) for ours, theirs in SIZES.items()}
    for ours, (theirs, default) in CONSTANTS.items():
        whole = type(default) is int and ours != "query_pre_attn_scalar"
        fields[ours] = _number(mapping, theirs, default=default, whole=whole)
    fields["rope_base"] = _rope_base(mapping)
    _allow(mapping, "sliding_window_size", fields["sliding_window"], None)
    _check_layer_types(mapping, fields["num_layers"])
    _refuse_stale_9b(fields)
    return fields


def write(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A full `config.json` from the fields of a `Gemma2Config`, in the types transformers wants."""
    constants = {}
    for ours, (theirs, default) in CONSTANTS.items():
        value = fields[ours]
        if isinstance(default, float) and value is not None:
            value = float(value)
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        constants[theirs] = value
    return {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        **{theirs: fields[ours] for ours, theirs in SIZES.items()},
        **constants,
        "layer_types": list(LAYER_TYPES) * (fields["num_layers"] // 2),
        "rope_theta": float(fields["rope_base"]),
        "hidden_act": ACTIVATION,
        "hidden_activation": ACTIVATION,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "use_cache": True,
    }


def _refuse_what_gemma2_is_not(mapping: Mapping[str, Any]) -> None:
    for key in ("hidden_activation", "hidden_act"):
        _allow(mapping, key, ACTIVATION, None)
    _allow(mapping, "attention_bias", False, None)
    _allow(mapping, "attention_dropout", 0.0, None)
    _allow(mapping, "tie_word_embeddings", True, None)
    _allow(mapping, "use_bidirectional_attention", False, None)
    _allow(mapping, "quantization_config", None)


def _rope_base(mapping: Mapping[str, Any]) -> float:
    """Base of the rotary embedding; without scaling, and the same for local and global layers."""
    base = _number(mapping, "rope_theta", default=None)
    for key in ("rope_parameters", "rope_scaling"):
        parameters = mapping.get(key)
        if parameters is None:
            continue
        if not isinstance(parameters, Mapping):
            raise ValueError(f"{key}: expected a mapping or null, found {parameters!r}")
        scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
        plain = ({}, {"rope_type": "default"}, {"type": "default"})
        if scaling not in (*plain, {"rope_type": "default", "type": "default"}):
            raise ValueError(f"{key}: expected no scaling (rope_type 'default'), found {scaling!r}")
        inner = _number(parameters, "rope_theta", default=base)
        if None not in (base, inner) and base != inner:
            raise ValueError(f"{key}: expected rope_theta = {base!r} as beside it, found {inner!r}")
        base = inner
    return 10_000.0 if base is None else base


def _check_layer_types(mapping: Mapping[str, Any], num_layers: int) -> None:
    found = mapping.get("layer_types")
    if found is None:
        return
    # Counted first: what a damaged file gives for num_layers may be astronomical.
    alternating = isinstance(found, list | tuple) and len(found) == num_layers
    if not alternating or list(found) != list(LAYER_TYPES) * (num_layers // 2):
        raise ValueError(
            f"layer_types: expected {num_layers} entries alternating {LAYER_TYPES[0]!r}, "
            f"{LAYER_TYPES[1]!r} from layer 0, found {found!r}"
        )


def _refuse_stale_9b(fields: Mapping[str, Any]) -> None:
    """The 9B was published with 224 at first and corrected in July 2024; old copies remain."""
    is_9b = (fields["embed_dim"], fields["num_layers"], fields["num_heads"]) == (3584, 42, 16)
    if is_9b and fields["query_pre_attn_scalar"] == 224:
        raise ValueError(
            "query_pre_attn_scalar: expected 256 for the 9B, found 224, a value since corrected: "
            "set it to 256 in config.json"
        )


def _require(mapping: Mapping[str, Any], key: str, expected: object) -> None:
    if mapping.get(key) != expected:
        raise ValueError(f"{key}: expected {expected!r}, found {mapping.get(key, 'nothing')!r}")


def _allow(mapping: Mapping[str, Any], key: str, *allowed: object) -> None:
    """Refuses a key whose value is none of `allowed`; True is not 1 and False not 0."""
    found = mapping.get(key, allowed[0])
    same_kind = [value for value in allowed if isinstance(value, bool) == isinstance(found, bool)]
    if found not in same_kind:
        raise ValueError(f"{key}: expected {allowed[0]!r}, found {found!r}")


_MISSING = object()


def _number(
    mapping: Mapping[str, Any], key: str, *, default: Any = _MISSING, whole: bool = False
) -> Any:
    found = mapping.get(key, default)
    if found is _MISSING:
        raise ValueError(f"{key}: expected a number, found nothing; is this a Gemma 2 config.json?")
    if found is None and (key in NULLABLE or default is None):
        return None
    kinds = int if whole else int | float
    if isinstance(found, bool) or not isinstance(found, kinds):
        kind = "an integer" if whole else "a number"
        raise ValueError(f"{key}: expected {kind}, found {found!r}")
    return found
