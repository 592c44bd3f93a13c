"""Rematerialisation and unrolling: the same numbers; less memory; what grows with depth."""

import dataclasses
from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from matchbook.gemma import Gemma2Config, Transformer
from matchbook.gemma.model import REMAT
from matchbook.gemma.sharding_plan import abstract_model

CONFIG = Gemma2Config(
    vocab_size=24,
    embed_dim=16,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=32,
    sliding_window=16,
)
TIME = 256
TOKENS = np.random.default_rng(0).integers(0, 24, (2, TIME)).astype(np.int32)


def value_and_gradient(remat, config=CONFIG, unroll=1):
    """Of a loss that weighs every logit differently, as a jitted function of weights and tokens."""
    graph, _ = abstract_model(config, remat=remat, unroll=unroll, attention="dense")

    def loss(weights, tokens):
        logits = nnx.merge(graph, weights)(tokens)
        return jnp.mean(logits * jnp.cos(jnp.arange(logits.size).reshape(logits.shape)))

    return jax.jit(jax.value_and_grad(loss))


@cache
def compiled(remat, unroll=1):
    _, weights = abstract_model(CONFIG)
    tokens = jax.ShapeDtypeStruct(TOKENS.shape, jnp.int32)
    return value_and_gradient(remat, unroll=unroll).lower(weights, tokens).compile()


@cache
def weights():
    model = Transformer(CONFIG, rngs=nnx.Rngs(0))
    return nnx.to_pure_dict(nnx.state(model))


@pytest.mark.parametrize(
    ("remat", "unroll"),
    [*((name, 1) for name in REMAT if name != "none"), ("none", 2), ("pair", 2)],
)
def test_values_and_gradients_are_those_without(remat, unroll):
    expected, expected_gradient = compiled("none")(weights(), jnp.asarray(TOKENS))
    value, gradient = compiled(remat, unroll)(weights(), jnp.asarray(TOKENS))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected_gradient)) > 1e-3
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient)):
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale)


def test_memory_falls_from_policy_to_policy():
    """Peak temporary bytes, as XLA plans them; [time, time] scores are most of what is kept."""
    peaks = [compiled(name).memory_analysis().temp_size_in_bytes for name in REMAT]
    assert list(REMAT) == ["none", "dots", "pair", "layer"]
    for more, less in pairwise(peaks):
        assert less < 0.95 * more, dict(zip(REMAT, peaks))
    assert peaks[-1] < 0.5 * peaks[0]


@pytest.mark.parametrize("remat", REMAT)
def test_programs_do_not_grow_with_depth(remat):
    """A count rather than a clock: `bench/compiling.py` has the clock."""
    tokens = jax.ShapeDtypeStruct(TOKENS.shape, jnp.int32)

    def length(num_layers):
        config = dataclasses.replace(CONFIG, num_layers=num_layers)
        _, shapes = abstract_model(config)
        return len(value_and_gradient(remat, config).lower(shapes, tokens).as_text())

    assert length(46) <= 1.05 * length(2)


def test_with_all_pairs_in_a_turn_there_is_no_loop():
    tokens = jax.ShapeDtypeStruct(TOKENS.shape, jnp.int32)
    _, shapes = abstract_model(CONFIG)
    once, all_pairs = (
        value_and_gradient("none", unroll=unroll).lower(shapes, tokens).as_text()
        for unroll in (1, CONFIG.num_pairs)
    )
    assert once.count("stablehlo.while") == 2  # forward and backward
    assert all_pairs.count("stablehlo.while") == 0


def test_the_policy_is_static_and_shown():
    graphs = {name: abstract_model(CONFIG, remat=name)[0] for name in REMAT}
    assert len(set(graphs.values())) == len(REMAT)
    assert graphs["pair"] == abstract_model(CONFIG, remat="pair")[0]
    assert nnx.merge(*abstract_model(CONFIG, remat="dots")).remat == "dots"


def test_unknown_policies_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"remat: .*'none', 'dots', 'pair', 'layer'.*'full'"):
        Transformer(CONFIG, rngs=nnx.Rngs(0), remat="full")
    with pytest.raises(ValueError, match=r"unroll: .*at least 1.*got 0"):
        Transformer(CONFIG, rngs=nnx.Rngs(0), unroll=0)
