"""Configurations: Table 1, what the constructor refuses, and Hugging Face's config.json."""

import dataclasses
import json

import pytest

from matchbook.gemma import Gemma2Config

SMALL = {
    "vocab_size": 64,
    "embed_dim": 32,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "mlp_dim": 48,
}
REAL_SIZES = [Gemma2Config.gemma2_2b(), Gemma2Config.gemma2_9b(), Gemma2Config.gemma2_27b()]

# A config.json of the 9B as published in 2024 (older keys), and of the 27B in today's keys.
OLDER_9B = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.0.dev0",
    "use_cache": True,
    "vocab_size": 256000,
}
NEWER_27B = {
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "dtype": "bfloat16",
    "final_logit_softcapping": 30.0,
    "head_dim": 128,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 4608,
    "intermediate_size": 36864,
    "layer_types": ["sliding_attention", "full_attention"] * 23,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 32,
    "num_hidden_layers": 46,
    "num_key_value_heads": 16,
    "query_pre_attn_scalar": 144,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "use_bidirectional_attention": None,
    "vocab_size": 256000,
}


def test_table_1():
    printed = [
        # d_model, layers, "feedforward dim", heads, KV heads, head size
        (2304, 26, 18432, 8, 4, 256),
        (3584, 42, 28672, 16, 8, 256),
        (4608, 46, 73728, 32, 16, 128),
    ]
    for config, row in zip(REAL_SIZES, printed, strict=True):
        heads = config.num_heads, config.num_kv_heads, config.head_dim
        assert (config.embed_dim, config.num_layers, 2 * config.mlp_dim, *heads) == row
        assert (config.sliding_window, config.max_context) == (4096, 8192)
        assert (config.attention_softcap, config.final_softcap) == (50.0, 30.0)
        assert config.vocab_size == 256_128
        assert config.queries_per_kv_head == 2


def test_query_scales():
    assert [config.query_scale for config in REAL_SIZES] == [1 / 16, 1 / 16, 1 / 12]
    assert Gemma2Config(**SMALL).query_scale == pytest.approx(8**-0.5)


def test_layers_alternate_from_local_to_global():
    for config in REAL_SIZES:
        assert config.layer_types[:3] == ("local", "global", "local")
        assert config.layer_types[-1] == "global"
        assert len(config.layer_types) == config.num_layers == 2 * config.num_pairs


def test_frozen_and_keyword_only():
    config = Gemma2Config(**SMALL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_layers = 2
    with pytest.raises(TypeError):
        Gemma2Config(*SMALL.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 3}, "num_layers: expected an even number, got 3"),
        ({"num_layers": 0}, "num_layers: expected a positive integer, got 0"),
        ({"num_kv_heads": 3}, "num_kv_heads: expected a divisor of num_heads = 4, got 3"),
        ({"head_dim": 7}, "head_dim: expected an even number, got 7"),
        ({"sliding_window": -1}, "sliding_window: expected a positive integer, got -1"),
        ({"attention_softcap": 0.0}, "attention_softcap: expected a positive number, got 0.0"),
        ({"final_softcap": -30.0}, "final_softcap: expected a positive number, got -30.0"),
        ({"query_pre_attn_scalar": float("nan")}, "query_pre_attn_scalar: .* got nan"),
        ({"norm_eps": float("inf")}, "norm_eps: expected a positive number, got inf"),
    ],
)
def test_constructor_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        Gemma2Config(**SMALL | change)


def test_real_config_files_in_both_spellings():
    rows = {"vocab_size": 256_000}
    assert Gemma2Config.from_hf(OLDER_9B) == dataclasses.replace(REAL_SIZES[1], **rows)
    assert Gemma2Config.from_hf(NEWER_27B) == dataclasses.replace(REAL_SIZES[2], **rows)


@pytest.mark.parametrize(
    "config",
    [
        *REAL_SIZES,
        Gemma2Config(**SMALL),
        Gemma2Config(**SMALL, attention_softcap=None, final_softcap=None),
        Gemma2Config(**SMALL, query_pre_attn_scalar=12.5, rope_base=500, norm_eps=1e-5),
        Gemma2Config(**SMALL, sliding_window=3, max_context=77, attention_softcap=20),
    ],
)
def test_round_trip_through_json(config):
    assert Gemma2Config.from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma"}, "model_type: expected 'gemma2', found 'gemma'"),
        ({"attention_bias": True}, "attention_bias: expected False, found True"),
        ({"attention_dropout": 0.1}, "attention_dropout: expected 0.0, found 0.1"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'gelu_pytorch_tanh', found 'gelu'"),
        ({"hidden_activation": "silu"}, "hidden_activation: expected .*, found 'silu'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings: expected True, found False"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention: expected False"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: expected None, found"),
        ({"sliding_window_size": 2048}, "sliding_window_size: expected 4096, found 2048"),
        ({"sliding_window": None}, "sliding_window: expected an integer, found None"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling: expected no scaling"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters: expected no scaling"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_theta = 10000.0 .*, found 500000.0"),
        ({"layer_types": ["full_attention"] * 42}, "layer_types: expected 42 entries"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types: expected 42"),
        ({"query_pre_attn_scalar": 224}, "query_pre_attn_scalar: expected 256 for the 9B"),
        ({"hidden_size": "3584"}, "hidden_size: expected an integer, found '3584'"),
        ({"hidden_size": None}, "hidden_size: expected an integer, found None"),
        ({"num_hidden_layers": 41}, "num_layers: expected an even number, got 41"),
        ({"num_attention_heads": True}, "num_attention_heads: expected an integer, found True"),
    ],
)
def test_config_json_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        Gemma2Config.from_hf(OLDER_9B | change)


@pytest.mark.parametrize("key", ["hidden_size", "head_dim", "vocab_size", "model_type"])
def test_config_json_must_name_its_sizes(key):
    with pytest.raises(ValueError, match=f"{key}: expected .*, found .?nothing"):
        Gemma2Config.from_hf({k: v for k, v in OLDER_9B.items() if k != key})


def test_absent_constants_are_those_of_transformers():
    sizes = [key for key, value in OLDER_9B.items() if type(value) is int and value > 2]
    stated = {*sizes, "model_type"} - {"query_pre_attn_scalar", "max_position_embeddings"}
    stated -= {"sliding_window", "sliding_window_size"}
    bare = {key: value for key, value in OLDER_9B.items() if key in stated}
    assert len(bare) == 8
    assert Gemma2Config.from_hf(bare) == Gemma2Config.from_hf(OLDER_9B)
