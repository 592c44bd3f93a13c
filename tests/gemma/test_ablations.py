"""Ablations, which are no Gemma 2: layers without some norms, and no file that holds them."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from matchbook.gemma import Gemma2Config, Transformer
from matchbook.gemma.accounting import parameter_count
from matchbook.gemma.checkpoints import save_checkpoint
from matchbook.gemma.layers import RMSNorm, rope_rotation
from matchbook.gemma.mapping import flax_tensors, hugging_face_tensors
from matchbook.gemma.tracing import trace

GEMMA2 = Gemma2Config(
    vocab_size=23,
    embed_dim=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=12,
    sliding_window=3,
)
PRE_ONLY = dataclasses.replace(GEMMA2, post_norm=False)
POST_ONLY = dataclasses.replace(GEMMA2, pre_norm=False)
NEITHER = dataclasses.replace(GEMMA2, pre_norm=False, post_norm=False)
every_config = pytest.mark.parametrize(
    "config", [GEMMA2, PRE_ONLY, POST_ONLY, NEITHER], ids=["both", "pre", "post", "neither"]
)
every_ablation = pytest.mark.parametrize("config", [PRE_ONLY, POST_ONLY, NEITHER])
TOKENS = jnp.asarray([[2, 5, 7, 11, 3, 1]], jnp.int32)


def new_model(config):
    """Norm scales are 0 at first, which would hide whether they are used: here they are not."""
    model = Transformer(config, rngs=nnx.Rngs(1))
    for path, scale in nnx.iter_graph(model):
        if path and path[-1] == "scale" and isinstance(scale, nnx.Param):
            scale[...] = jnp.linspace(-0.5, 0.9, scale.size).reshape(scale.shape)
    return model


def rms_norm(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * (1 + scale)


def by_hand(model, config):
    """The stream through both layers: norms in NumPy, and in each place only if the config says."""

    def norm(layer, name, wanted):
        if not wanted:
            return lambda x: x
        return partial(rms_norm, scale=np.asarray(getattr(layer, name).scale[...], np.float64)[0])

    positions = jnp.arange(6, dtype=jnp.int32)[None]
    where = {"positions": positions, "segments": jnp.ones_like(TOKENS)}
    where["rotation"] = rope_rotation(positions, config.head_dim, config.rope_base)
    graph, weights = nnx.split(model.pairs)
    first = nnx.merge(graph, jax.tree.map(lambda w: w[0], weights))
    x = np.asarray(model.embedder.encode(TOKENS), np.float64)
    for kind, window in (("local_layer", 3), ("global_layer", None)):
        stacked, layer = getattr(model.pairs, kind), getattr(first, kind)
        sublayers = {"attention": partial(layer.attention, **where, window=window)}
        for name, sublayer in (sublayers | {"mlp": layer.mlp}).items():
            before = norm(stacked, f"pre_{name}_norm", config.pre_norm)
            after = norm(stacked, f"post_{name}_norm", config.post_norm)
            inner = sublayer(jnp.asarray(before(x), jnp.float32))
            x = x + after(np.asarray(inner, np.float64))
    return rms_norm(x, np.asarray(model.final_norm.scale[...], np.float64))


@every_config
def test_norms_are_where_the_config_says_and_nowhere_else(config):
    model = new_model(config)
    np.testing.assert_allclose(model.hidden(TOKENS), by_hand(model, config), rtol=2e-4, atol=2e-5)


@every_config
def test_weights_are_those_that_are_counted(config):
    model = Transformer(config, rngs=nnx.Rngs(0))
    size = sum(weight.size for weight in jax.tree.leaves(nnx.state(model)))
    assert size == parameter_count(config).total
    norms = [node for _, node in nnx.iter_graph(model) if isinstance(node, RMSNorm)]
    assert len(norms) == 1 + 4 * (config.pre_norm + config.post_norm)


@every_config
def test_layer_by_layer_is_the_same_model(config):
    """As decoding and tracing take it apart."""
    model = new_model(config)
    np.testing.assert_allclose(trace(model, TOKENS).logits, model(TOKENS), rtol=2e-4, atol=2e-5)


@every_ablation
@pytest.mark.parametrize(
    "held",
    [Gemma2Config.to_hf, hugging_face_tensors, partial(flax_tensors, transposed_gate=False)],
    ids=["config.json", "hugging_face", "flax"],
)
def test_no_layout_holds_an_ablation(config, held):
    held(GEMMA2)
    with pytest.raises(ValueError, match=r"p(re|ost)_norm: expected True, got False.*no Gemma 2"):
        held(config)


@pytest.mark.parametrize("layout", ["hugging_face", "flax"])
def test_an_ablation_is_not_saved(tmp_path, layout):
    model = Transformer(PRE_ONLY, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="post_norm: expected True, got False"):
        save_checkpoint(model, tmp_path / "model", layout=layout)
    assert not list(tmp_path.rglob("*.json"))
