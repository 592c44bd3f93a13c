"""Names and layouts: the tensors of a Hugging Face Gemma 2 checkpoint and where they live in ours.

Unusual: it is one table, and each row converts both ways by transposing and reshaping alone. No
dimension inside a head is permuted (both use the split-half rotary layout) and nothing is scaled.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from matchbook.gemma.config import Gemma2Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """One tensor of a Hugging Face checkpoint and its place in the weights of a `Transformer`.

    Attributes:
      name: theirs, such as `model.layers.3.mlp.up_proj.weight`.
      shape: theirs; matrices are [outputs, inputs].
      path: ours, in `nnx.to_pure_dict(nnx.state(model))`.
      our_shape: ours, of one layer; matrices are [inputs, outputs], heads split off.
      pair: index along the stacked axis, or None for what is not stacked.
      transposed: whether ours is theirs transposed.
    """

    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]
    our_shape: tuple[int, ...]
    pair: int | None = None
    transposed: bool = False

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Their tensor in our layout.

        Raises:
          ValueError: a tensor of another shape.
        """
        if theirs.shape != self.shape:
            raise ValueError(f"{self.name}: expected shape {self.shape}, found {theirs.shape}")
        return (theirs.T if self.transposed else theirs).reshape(self.our_shape)

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        """Our array, of one layer, in their layout."""
        return ours.reshape(self.shape[::-1]).T if self.transposed else ours


def hugging_face_tensors(config: Gemma2Config) -> tuple[TensorPlace, ...]:
    """Every tensor of a checkpoint of this size: 11 per layer, the table and the final norm."""
    places = [
        TensorPlace(
            name="model.embed_tokens.weight",
            shape=(config.vocab_size, config.embed_dim),
            path=("embedder", "table"),
            our_shape=(config.vocab_size, config.embed_dim),
        )
    ]
    for layer, kind in enumerate(config.layer_types):
        for name, path, our_shape, inputs in _layer_tensors(config):
            outputs = int(np.prod(our_shape)) // inputs
            is_norm = len(our_shape) == 1
            places.append(
                TensorPlace(
                    name=f"model.layers.{layer}.{name}.weight",
                    shape=our_shape if is_norm else (outputs, inputs),
                    path=("pairs", f"{kind}_layer", *path),
                    our_shape=our_shape,
                    pair=layer // 2,
                    transposed=not is_norm,
                )
            )
    norm = (config.embed_dim,)
    places.append(
        TensorPlace(
            name="model.norm.weight", shape=norm, path=("final_norm", "scale"), our_shape=norm
        )
    )
    return tuple(places)


def _layer_tensors(
    config: Gemma2Config,
) -> list[tuple[str, tuple[str, ...], tuple[int, ...], int]]:
    """Their name, our path, our shape and the number of inputs, for one layer."""
    embed, mlp, head = config.embed_dim, config.mlp_dim, config.head_dim
    heads, kv_heads = config.num_heads, config.num_kv_heads
    matrices = [
        ("self_attn.q_proj", ("attention", "query"), (embed, heads, head), embed),
        ("self_attn.k_proj", ("attention", "key"), (embed, kv_heads, head), embed),
        ("self_attn.v_proj", ("attention", "value"), (embed, kv_heads, head), embed),
        ("self_attn.o_proj", ("attention", "output"), (heads, head, embed), heads * head),
        ("mlp.gate_proj", ("mlp", "gate"), (embed, mlp), embed),
        ("mlp.up_proj", ("mlp", "up"), (embed, mlp), embed),
        ("mlp.down_proj", ("mlp", "down"), (mlp, embed), mlp),
    ]
    # In Gemma 1 `post_attention_layernorm` named the norm before the MLP; here it is what it says.
    norms = {
        "input_layernorm": "pre_attention_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "pre_mlp_norm",
        "post_feedforward_layernorm": "post_mlp_norm",
    }
    return matrices + [(theirs, (ours, "scale"), (embed,), embed) for theirs, ours in norms.items()]


def from_hugging_face(config: Gemma2Config, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our weights, as the nested dictionary that `nnx.replace_by_pure_dict` takes.

    Raises:
      ValueError: a tensor that is missing, unknown, or of another shape than the config implies.
        `lm_head.weight`, which some files repeat the tied table under, is ignored.
    """
    places = hugging_face_tensors(config)
    expected = {place.name for place in places}
    if missing := sorted(expected - tensors.keys()):
        raise ValueError(f"{missing[0]}: expected {len(expected)} tensors, {len(missing)} missing")
    if unknown := sorted(tensors.keys() - expected - {"lm_head.weight"}):
        raise ValueError(f"{unknown[0]}: no such tensor in a Gemma 2 of {config.num_layers} layers")
    weights: dict[str, Any] = {}
    for place in places:
        *parents, leaf = place.path
        node = weights
        for parent in parents:
            node = node.setdefault(parent, {})
        array = place.to_ours(tensors[place.name])
        if place.pair is None:
            node[leaf] = array
        else:
            stacked = (config.num_pairs, *place.our_shape)
            node.setdefault(leaf, np.empty(stacked, array.dtype))[place.pair] = array
    return weights


def to_hugging_face(config: Gemma2Config, weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Their tensors from our weights, or from anything of the same structure, such as gradients."""
    tensors = {}
    for place in hugging_face_tensors(config):
        node: Any = weights
        for part in place.path:
            node = node[part]
        array = np.asarray(node if place.pair is None else node[place.pair])
        tensors[place.name] = place.to_theirs(array)
    return tensors
