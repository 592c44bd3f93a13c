"""Names and layouts of checkpoints, apart from the files that use them."""

import jax
import numpy as np
import pytest
from flax import nnx

from matchbook.gemma import Gemma2Config, Transformer
from matchbook.gemma.mapping import (
    flax_tensors,
    from_hugging_face,
    hugging_face_tensors,
    to_hugging_face,
)

CONFIG = Gemma2Config(
    vocab_size=11, embed_dim=6, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=4, mlp_dim=10
)
SHAPES_2B = {
    "model.embed_tokens.weight": (256_128, 2304),
    "model.layers.25.self_attn.q_proj.weight": (2048, 2304),
    "model.layers.0.self_attn.k_proj.weight": (1024, 2304),
    "model.layers.0.self_attn.v_proj.weight": (1024, 2304),
    "model.layers.0.self_attn.o_proj.weight": (2304, 2048),
    "model.layers.13.mlp.gate_proj.weight": (9216, 2304),
    "model.layers.13.mlp.up_proj.weight": (9216, 2304),
    "model.layers.13.mlp.down_proj.weight": (2304, 9216),
    "model.layers.7.input_layernorm.weight": (2304,),
    "model.layers.7.post_attention_layernorm.weight": (2304,),
    "model.layers.7.pre_feedforward_layernorm.weight": (2304,),
    "model.layers.7.post_feedforward_layernorm.weight": (2304,),
    "model.norm.weight": (2304,),
}


@pytest.fixture
def tensors():
    generator = np.random.default_rng(0)
    return {
        place.name: generator.standard_normal(place.shape).astype(np.float32)
        for place in hugging_face_tensors(CONFIG)
    }


def test_names_and_shapes_of_the_real_2b():
    shapes = {p.name: p.shape for p in hugging_face_tensors(Gemma2Config.gemma2_2b())}
    assert SHAPES_2B.items() <= shapes.items()


def test_places_cover_the_model_exactly(tensors):
    model = nnx.eval_shape(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0)))
    expected = jax.tree.map(lambda w: tuple(w.shape), nnx.to_pure_dict(nnx.state(model)))
    ours = from_hugging_face(CONFIG, tensors)
    assert jax.tree.map(np.shape, ours) == expected


def test_round_trip_is_exact(tensors):
    back = to_hugging_face(CONFIG, from_hugging_face(CONFIG, tensors))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_each_head_takes_its_own_rows(tensors):
    """Head n of query, key or value is rows n*head_dim to (n+1)*head_dim of their matrix."""
    x = np.random.default_rng(1).standard_normal(6)
    ours = from_hugging_face(CONFIG, tensors)["pairs"]["global_layer"]["attention"]
    for leaf, name, heads in [("query", "q", 4), ("key", "k", 2), ("value", "v", 2)]:
        theirs = tensors[f"model.layers.3.self_attn.{name}_proj.weight"] @ x
        for head in range(heads):
            expected = theirs[4 * head : 4 * head + 4]
            np.testing.assert_allclose(x @ ours[leaf][1][:, head], expected, rtol=1e-6)
    mixed = np.random.default_rng(2).standard_normal((4, 4))
    expected = tensors["model.layers.3.self_attn.o_proj.weight"] @ mixed.ravel()
    np.testing.assert_allclose(np.einsum("nh,nhd->d", mixed, ours["output"][1]), expected)


def test_a_repeated_table_is_ignored(tensors):
    repeated = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    ours, expected = from_hugging_face(CONFIG, repeated), from_hugging_face(CONFIG, tensors)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_wrong_tensors_are_named(tensors):
    name = "model.layers.2.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=f"{name}: expected 46 tensors, 1 missing"):
        from_hugging_face(CONFIG, {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(ValueError, match=r"model.layers.4.x: no such tensor in .* 4 layers"):
        from_hugging_face(CONFIG, tensors | {"model.layers.4.x": np.zeros(1)})
    with pytest.raises(ValueError, match=rf"{name}: expected shape \(10, 6\), found \(6, 10\)"):
        from_hugging_face(CONFIG, tensors | {name: tensors[name].T})


@pytest.mark.parametrize("transposed_gate", [False, True])
def test_google_s_leaves_are_every_weight_once(transposed_gate):
    """Each part of each leaf has its own place, goes there and comes back as a view."""
    ours = {(*place.path, place.pair) for place in hugging_face_tensors(CONFIG)}
    places = flax_tensors(CONFIG, transposed_gate=transposed_gate)
    assert len(places) == len(ours)
    assert {(*place.path, place.pair) for place in places} == ours
    parts = {}
    for place in places:
        theirs = np.random.default_rng(0).standard_normal(place.shape)
        array = np.ascontiguousarray(place.to_ours(theirs))
        assert array.shape == place.our_shape
        back = place.to_theirs(array)
        assert np.shares_memory(back, array)
        np.testing.assert_array_equal(back, theirs if place.part is None else theirs[place.part])
        parts.setdefault(place.name, []).append(place.part)
    assert set(map(tuple, parts.values())) == {(None,), (0, 1)}
