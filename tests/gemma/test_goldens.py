"""Logits and gradients against transformers' Gemma 2 (tests/goldens/gemma2/make.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open

from matchbook.gemma import Gemma2Config, Transformer
from matchbook.gemma.mapping import from_hugging_face, to_hugging_face

FILES = sorted((Path(__file__).parents[1] / "goldens" / "gemma2").glob("*.safetensors"))
# Each program runs once on a few tokens: compiling it is what takes the time.


def under(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


class Golden:
    """One golden file, and what our model makes of its weights and tokens."""

    def __init__(self, path):
        with safe_open(path, "np") as file:
            self.about = json.loads(file.metadata()["golden"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.config = config = Gemma2Config.from_hf(self.about["config"])
        self.logits, self.loss = arrays["logits"], arrays["loss"]
        self.gradients = under(arrays, "gradients/")
        self.tokens, self.segments = jnp.asarray(arrays["tokens"]), jnp.asarray(arrays["segments"])
        theirs = {
            name: array.astype(np.float32) for name, array in under(arrays, "weights/").items()
        }
        self.graph, self.weights = nnx.split(
            nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
        )
        nnx.replace_by_pure_dict(self.weights, from_hugging_face(config, theirs))
        self.weights = jax.tree.map(jnp.asarray, self.weights)
        run = jax.jit(jax.value_and_grad(self.loss_and_logits, has_aux=True))
        (self.our_loss, logits), gradients = run(self.weights)
        self.our_logits = np.asarray(logits)
        self.our_gradients = to_hugging_face(config, nnx.to_pure_dict(gradients))

    def loss_and_logits(self, weights):
        logits = nnx.merge(self.graph, weights)(self.tokens, segments=self.segments)
        log_probs = jax.nn.log_softmax(logits[:, :-1])
        chosen = jnp.take_along_axis(log_probs, self.tokens[:, 1:, None], axis=-1)[..., 0]
        counted = (self.segments[:, :-1] == self.segments[:, 1:]) & (self.segments[:, 1:] > 0)
        counted = counted.astype(jnp.float32)
        return -jnp.sum(chosen * counted) / jnp.sum(counted), logits


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def golden(request):
    return Golden(request.param)


def test_logits_equal_the_golden_ones(golden):
    assert np.isfinite(golden.our_logits).all()
    real = np.asarray(golden.segments) > 0
    error = np.abs(golden.our_logits - golden.logits)[real].max() / np.abs(golden.logits).max()
    assert error <= 1e-5


def test_loss_gradients_equal_the_golden_ones(golden):
    """Relative to the largest of each tensor; where that is zero (keys at window 1), exactly."""
    np.testing.assert_allclose(golden.our_loss, golden.loss, rtol=1e-5)
    assert golden.our_gradients.keys() == golden.gradients.keys()
    for name, expected in golden.gradients.items():
        ours = golden.our_gradients[name]
        assert ours.shape == expected.shape, name
        assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max(), name


def test_goldens_cover_what_sets_gemma_2_apart():
    """Every axis on which ports of Gemma 2 have gone wrong has a golden file, caps biting."""
    abouts, configs, times, padded, packed = {}, {}, {}, [], []
    for path in FILES:
        with safe_open(path, "np") as file:
            abouts[path.stem] = json.loads(file.metadata()["golden"])
            segments = file.get_tensor("segments")
        configs[path.stem] = Gemma2Config.from_hf(abouts[path.stem]["config"])
        times[path.stem] = segments.shape[1]
        padded += [path.stem] * bool((segments == 0).any())
        packed += [path.stem] * bool((segments > 1).any())
    every = configs.values()
    assert len(FILES) >= 8
    assert padded
    assert packed
    assert {c.query_pre_attn_scalar == c.head_dim for c in every} == {True, False}
    assert any(c.query_pre_attn_scalar == c.embed_dim // c.num_heads != c.head_dim for c in every)
    assert {1, 2, 4} <= {c.queries_per_kv_head for c in every}
    assert any(c.head_dim != c.embed_dim // c.num_heads for c in every)
    assert any(c.sliding_window % 2 and c.sliding_window > 1 for c in every)
    assert any(c.sliding_window == 1 for c in every)
    assert any(times[name] < c.sliding_window for name, c in configs.items())
    assert sum(times[name] > 3 * c.sliding_window for name, c in configs.items()) >= 8
    assert {c.attention_softcap for c in every} == {50.0, None}
    assert {c.final_softcap for c in every} == {30.0, None}
    for name, about in abouts.items():
        assert about["attn_implementation"] == "eager", name
        assert about["largest_score_before_cap"] > 50, name
        assert about["largest_logit_before_cap"] > 15, name
