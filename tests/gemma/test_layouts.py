"""Checkpoint layouts: counted, added up against Table 2, and a few shapes written by hand."""

import math

import pytest

from matchbook.gemma import Gemma2Config, layouts

CONFIGS = {
    "2B": (Gemma2Config.gemma2_2b(), 288, 236, 2_614_636_800),
    "9B": (Gemma2Config.gemma2_9b(), 464, 380, 9_242_164_736),
    "27B": (Gemma2Config.gemma2_27b(), 508, 416, 27_227_718_144),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("transposed_gate", [False, True])
def test_both_layouts_hold_table_2(name, transposed_gate):
    config, hf_tensors, flax_leaves, parameters = CONFIGS[name]
    hugging_face = layouts.hugging_face_shapes(config)
    flax = layouts.flax_shapes(config, transposed_gate=transposed_gate)
    assert (len(hugging_face), len(flax)) == (hf_tensors, flax_leaves)
    assert sum(map(math.prod, hugging_face.values())) == parameters
    assert sum(map(math.prod, flax.values())) == parameters


def test_shapes_of_the_2b_as_public_code_has_them():
    config = Gemma2Config.gemma2_2b()
    hugging_face = layouts.hugging_face_shapes(config)
    assert hugging_face["model.layers.0.self_attn.q_proj.weight"] == (2048, 2304)
    assert hugging_face["model.layers.25.self_attn.k_proj.weight"] == (1024, 2304)
    assert hugging_face["model.layers.7.self_attn.o_proj.weight"] == (2304, 2048)
    assert hugging_face["model.layers.7.mlp.down_proj.weight"] == (2304, 9216)
    flax = layouts.flax_shapes(config, transposed_gate=False)
    assert flax["transformer/layer_25/attn/kv_einsum/w"] == (2, 4, 2304, 256)
    assert flax["transformer/layer_0/mlp/gating_einsum/w"] == (2, 2304, 9216)
    assert flax["transformer/embedder/input_embedding"] == (256_128, 2304)
