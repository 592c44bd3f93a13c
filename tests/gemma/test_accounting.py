"""Costs against Table 2, against the model's own arrays, and against XLA's count of FLOPs."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from matchbook.gemma import Gemma2Config, Transformer, accounting
from matchbook.gemma.mapping import hugging_face_tensors

SIZES = {
    "2B": Gemma2Config.gemma2_2b(),
    "9B": Gemma2Config.gemma2_9b(),
    "27B": Gemma2Config.gemma2_27b(),
}
TABLE_2 = {  # embedding and non-embedding parameters, as printed
    "2B": (590_118_912, 2_024_517_888),
    "9B": (917_962_752, 8_324_201_984),
    "27B": (1_180_237_824, 26_047_480_320),
}
TOTAL_256000_ROWS = {"2B": 2_614_341_888, "9B": 9_241_705_984, "27B": 27_227_128_320}
PER_LAYER = {"2B": 77_865_984, "9B": 198_195_200, "27B": 566_249_472}
CACHE_BYTES_PER_TOKEN = {"2B": 106_496, "9B": 344_064, "27B": 376_832}
TENSORS = {"2B": (288, 236), "9B": (464, 380), "27B": (508, 416)}


def counted(config):
    """(table, everything else) of the model itself, built by shape alone."""
    weights = jax.eval_shape(lambda: nnx.split(Transformer(config, rngs=nnx.Rngs(0)))[1])
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(weights)]
    table = math.prod(weights["embedder"]["table"].shape)
    return table, sum(sizes) - table


@pytest.mark.parametrize("size", SIZES)
def test_table_2(size):
    parameters = accounting.parameter_count(SIZES[size])
    assert (parameters.embedding, parameters.non_embedding) == TABLE_2[size]
    assert parameters.total == sum(TABLE_2[size])
    assert parameters.per_layer == PER_LAYER[size]
    assert counted(SIZES[size]) == TABLE_2[size]


@pytest.mark.parametrize("size", SIZES)
def test_table_2_without_the_padding_of_the_table(size):
    config = dataclasses.replace(SIZES[size], vocab_size=256_000)
    assert accounting.parameter_count(config).total == TOTAL_256000_ROWS[size]
    assert sum(counted(config)) == TOTAL_256000_ROWS[size]
    assert sum(TABLE_2[size]) - TOTAL_256000_ROWS[size] == 128 * config.embed_dim


@pytest.mark.parametrize("size", SIZES)
def test_checkpoint_tensors(size):
    counts = accounting.checkpoint_tensors(SIZES[size])
    assert (counts["hugging_face"], counts["flax"]) == TENSORS[size]
    places = hugging_face_tensors(SIZES[size])
    assert len({place.name for place in places}) == counts["hugging_face"]
    assert sum(math.prod(place.shape) for place in places) == sum(TABLE_2[size])


@pytest.mark.parametrize("size", SIZES)
def test_cache_bytes(size):
    config = SIZES[size]
    per_token = CACHE_BYTES_PER_TOKEN[size]
    assert accounting.cache_bytes_per_token(config) == per_token
    assert accounting.cache_bytes(config, 4096).total == 4096 * per_token
    assert accounting.cache_bytes(config, 8192, ring=False).total == 8192 * per_token
    ring = accounting.cache_bytes(config, 8192)
    assert ring.local_layers == 4096 * per_token // 2
    assert ring.global_layers == 8192 * per_token // 2
    assert ring.total == 3 * 4096 * per_token // 2
    double = accounting.cache_bytes(config, 8192, bytes_per_value=4)
    assert double.total == 2 * ring.total


@pytest.mark.parametrize("window", [None, 1, 3, 7, 20])
@pytest.mark.parametrize("length", [1, 6, 7, 8, 19])
def test_mean_visible_keys_by_counting(length, window):
    seen = [
        sum(1 for key in range(query + 1) if window is None or key > query - window)
        for query in range(length)
    ]
    assert accounting.mean_visible_keys(length, window) == pytest.approx(np.mean(seen))


def test_mean_flops_are_the_mean_over_a_document():
    config = dataclasses.replace(SIZES["2B"], sliding_window=5)
    each = [accounting.flops_per_token(config, context) for context in range(1, 13)]
    mean = accounting.mean_flops_per_token(config, 12)
    for part, flops in mean.by_part().items():
        assert flops == pytest.approx(np.mean([token.by_part()[part] for token in each]))
    training = accounting.mean_flops_per_token(config, 12, training=True)
    assert training.total == pytest.approx(3 * mean.total)


@pytest.mark.parametrize("size", SIZES)
def test_without_context_flops_are_two_per_weight_in_a_product(size):
    flops = accounting.forward_flops(SIZES[size], local_keys=0, global_keys=0)
    parameters = accounting.parameter_count(SIZES[size])
    norms = parameters.num_layers * parameters.norms + parameters.final_norm
    assert flops.total == 2 * (parameters.total - norms)


def test_flops_against_what_xla_counts():
    """Compiled, not run: one pair of layers wide enough for products to be nearly everything."""
    batch, time = 2, 128
    config = Gemma2Config(
        vocab_size=1024,
        embed_dim=256,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=128,
        mlp_dim=768,
        sliding_window=16,
    )
    graph, weights = jax.eval_shape(lambda: nnx.split(Transformer(config, rngs=nnx.Rngs(0))))
    tokens = jax.ShapeDtypeStruct((batch, time), jnp.int32)

    def forward(weights, tokens):
        return jnp.sum(nnx.merge(graph, weights)(tokens))

    per_token = accounting.forward_flops(config, local_keys=time, global_keys=time)
    for function, times in [(forward, 1), (jax.value_and_grad(forward), 3)]:
        found = jax.jit(function).lower(weights, tokens).cost_analysis()["flops"]
        assert found == pytest.approx(times * batch * time * per_token.total, rel=0.02)
