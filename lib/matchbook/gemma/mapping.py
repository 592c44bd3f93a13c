"""Names and layouts: the tensors of a Gemma 2 checkpoint and where each lives in our weights.

Unusual: a layout is one table, Hugging Face's or Google's Flax (reference sheet, section 8), and
each row converts both ways by transposing and reshaping alone: as views, without a copy. No
dimension inside a head is permuted (all use the split-half rotary layout) and nothing is scaled.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from matchbook.gemma.config import Gemma2Config

Path = tuple[str, ...]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """One tensor of a checkpoint, or one part of it, and its place in our weights.

    Attributes:
      name: theirs, such as `model.layers.3.mlp.up_proj.weight`.
      shape: theirs, of the whole tensor.
      path: ours, in `nnx.to_pure_dict(nnx.state(model))`.
      our_shape: ours, of one layer; matrices are [inputs, outputs], heads split off.
      pair: index along our stacked axis, or None for what is not stacked.
      part: index along their leading axis, where they keep two of ours in one tensor, or None.
      axes: the order in which their dimensions, without that of `part`, are ours.
    """

    name: str
    shape: Shape
    path: Path
    our_shape: Shape
    pair: int | None = None
    part: int | None = None
    axes: tuple[int, ...]

    @property
    def part_shape(self) -> Shape:
        """Theirs, of the part alone."""
        return self.shape if self.part is None else self.shape[1:]

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Their tensor in our layout.

        Raises:
          ValueError: a tensor of another shape.
        """
        if theirs.shape != self.shape:
            raise ValueError(f"{self.name}: expected shape {self.shape}, found {theirs.shape}")
        part = theirs if self.part is None else theirs[self.part]
        return part.transpose(self.axes).reshape(self.our_shape)

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        """Our array, of one layer, in their layout (of the part alone): a view of it."""
        permuted = ours.reshape([self.part_shape[axis] for axis in self.axes])
        return permuted.transpose(np.argsort(self.axes))


def hugging_face_tensors(config: Gemma2Config) -> tuple[TensorPlace, ...]:
    """Every tensor of a Hugging Face file: 11 per layer, the table and the final norm.

    Matrices are [outputs, inputs], heads flattened into outputs or inputs.

    Raises:
      ValueError: an ablation, which has no file; see `Gemma2Config.refuse_ablations`.
    """
    config.refuse_ablations()
    norm = (config.embed_dim,)
    places = [_table(config, "model.embed_tokens.weight")]
    for layer, kind in enumerate(config.layer_types):
        for name, path, our_shape, inputs in _hugging_face_layer(config):
            matrix = (math.prod(our_shape) // inputs, inputs)
            places.append(
                TensorPlace(
                    name=f"model.layers.{layer}.{name}.weight",
                    shape=our_shape if len(our_shape) == 1 else matrix,
                    path=("pairs", f"{kind}_layer", *path),
                    our_shape=our_shape,
                    pair=layer // 2,
                    axes=(0,) if len(our_shape) == 1 else (1, 0),
                )
            )
    places.append(
        TensorPlace(
            name="model.norm.weight",
            shape=norm,
            path=("final_norm", "scale"),
            our_shape=norm,
            axes=(0,),
        )
    )
    return tuple(places)


def flax_tensors(config: Gemma2Config, *, transposed_gate: bool) -> tuple[TensorPlace, ...]:
    """Every leaf of Google's Flax checkpoint: 9 per layer, the table and the final norm.

    Keys and values share a leaf, gate and up projection too: such a leaf has two rows here.

    Args:
      config: sizes; real files have 256,128 rows in the table.
      transposed_gate: whether the gating leaf is stored [2, mlp, embed], as in the files of 9B and
        27B, or [2, embed, mlp], as in that of the 2B.

    Raises:
      ValueError: an ablation, which has no file; see `Gemma2Config.refuse_ablations`.
    """
    config.refuse_ablations()
    norm = (config.embed_dim,)
    places = [_table(config, "transformer/embedder/input_embedding")]
    for layer, kind in enumerate(config.layer_types):
        for name, shape, path, part, axes in _flax_layer(config, transposed_gate):
            part_shape = shape if part is None else shape[1:]
            places.append(
                TensorPlace(
                    name=f"transformer/layer_{layer}/{name}",
                    shape=shape,
                    path=("pairs", f"{kind}_layer", *path),
                    our_shape=tuple(part_shape[axis] for axis in axes),
                    pair=layer // 2,
                    part=part,
                    axes=axes,
                )
            )
    places.append(
        TensorPlace(
            name="transformer/final_norm/scale",
            shape=norm,
            path=("final_norm", "scale"),
            our_shape=norm,
            axes=(0,),
        )
    )
    return tuple(places)


def _table(config: Gemma2Config, name: str) -> TensorPlace:
    shape = (config.vocab_size, config.embed_dim)
    return TensorPlace(
        name=name, shape=shape, path=("embedder", "table"), our_shape=shape, axes=(0, 1)
    )


def _hugging_face_layer(config: Gemma2Config) -> list[tuple[str, Path, Shape, int]]:
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


def _flax_layer(
    config: Gemma2Config, transposed_gate: bool
) -> list[tuple[str, Shape, Path, int | None, tuple[int, ...]]]:
    """Their name, their shape, our path, part and order of axes, for one layer."""
    embed, mlp, head = config.embed_dim, config.mlp_dim, config.head_dim
    heads, kv_heads = config.num_heads, config.num_kv_heads
    kv = (2, kv_heads, embed, head)
    gating = (2, mlp, embed) if transposed_gate else (2, embed, mlp)
    gate_axes = (1, 0) if transposed_gate else (0, 1)
    matrices = [
        ("attn/q_einsum/w", (heads, embed, head), ("attention", "query"), None, (1, 0, 2)),
        ("attn/kv_einsum/w", kv, ("attention", "key"), 0, (1, 0, 2)),
        ("attn/kv_einsum/w", kv, ("attention", "value"), 1, (1, 0, 2)),
        ("attn/attn_vec_einsum/w", (heads, head, embed), ("attention", "output"), None, (0, 1, 2)),
        ("mlp/gating_einsum/w", gating, ("mlp", "gate"), 0, gate_axes),
        ("mlp/gating_einsum/w", gating, ("mlp", "up"), 1, gate_axes),
        ("mlp/linear/w", (mlp, embed), ("mlp", "down"), None, (0, 1)),
    ]
    norms = {
        "pre_attention_norm": "pre_attention_norm",
        "post_attention_norm": "post_attention_norm",
        "pre_ffw_norm": "pre_mlp_norm",
        "post_ffw_norm": "post_mlp_norm",
    }
    return matrices + [
        (f"{theirs}/scale", (embed,), (ours, "scale"), None, (0,)) for theirs, ours in norms.items()
    ]


def from_hugging_face(config: Gemma2Config, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our weights, as the nested dictionary that `nnx.replace_by_pure_dict` takes.

    For tensors that are in memory already; `load_checkpoint` reads files piece by piece.

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
