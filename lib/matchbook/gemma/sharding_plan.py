"""What a training step asks of each device of a mesh, before there is one (Gemma 2, Table 3).

Unusual: nothing is allocated and no device is needed. Bytes come from shapes and shardings, the
kept activations from what `jax.vjp` returns for one device's share of the model, FLOPs from
`accounting`; and `lower` takes the step as far as a compiler for that machine would take it over.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.typing import DTypeLike

from matchbook.gemma.accounting import Flops
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.model import Transformer
from matchbook.gemma.sharding import Rules, batch_sharding, num_shards, rule_set, tree_shardings


def abstract_model(config: Gemma2Config, **options: Any) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """A model's static part and its weights' shapes, nested dicts; options as of `Transformer`."""
    graph, weights = nnx.split(
        nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0), **options))
    )
    return graph, nnx.to_pure_dict(weights)


def lower(
    step: Callable[[Any, Any], tuple[Any, Any]],
    state: Any,
    batch: Any,
    mesh: Mesh | AbstractMesh,
    rules: str | Rules,
    *,
    platform: str,
) -> jax.stages.Lowered:
    """The step lowered for a mesh of that platform, such as "tpu", which need not be here.

    Args:
      step: `step(state, batch) -> state, metrics`; the state is donated and stays where it lies.
      state: shapes of the training state, see `tree_shardings`.
      batch: shapes of the batch, rows first, the global number of them.
      mesh: of `abstract_mesh`, or `make_mesh`.
      rules: name of a set, or rules.
      platform: what to lower for.

    Raises:
      ValueError: as `tree_shardings`.
    """
    shardings = tree_shardings(state, mesh, rules)
    rows = batch_sharding(mesh, rules)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    arguments = (
        jax.tree.map(_placed, state, shardings),
        jax.tree.map(lambda x: _placed(x, rows), batch),
    )
    return jitted.trace(*arguments).lower(lowering_platforms=(platform,))


def _placed(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceBytes:
    """Memory of one device in a training step with AdamW.

    Attributes:
      weights: its part of the float32 masters.
      gradients: the same of their gradients.
      moments: of AdamW's two.
      gathered: weights made whole along `embed` for use: the table in float32, and the matrices of
        the pair at work (of all pairs, if nothing is rematerialised) in the activation dtype.
      kept: activations kept for the backward pass.
      recomputed: what the backward pass holds of the pair or layer it computes again.
      logits: float32 logits and their gradient.
    """

    weights: int
    gradients: int
    moments: int
    gathered: int
    kept: int
    recomputed: int
    logits: int

    def by_part(self) -> dict[str, int]:
        """Field name -> bytes, in the order of the fields."""
        return dataclasses.asdict(self)

    @property
    def total(self) -> int:
        """All of them: more than the peak, since logits and recomputed parts come in turns."""
        return sum(self.by_part().values())


def device_bytes(
    config: Gemma2Config,
    mesh: Mesh | AbstractMesh,
    rules: str | Rules,
    *,
    batch: int,
    time: int,
    remat: str,
    dtype: DTypeLike,
    attention: str | None = None,
) -> DeviceBytes:
    """Memory of a training step by part; activations as autodiff keeps them.

    XLA keeps less of them where it fuses, most of all without rematerialisation.

    Args:
      config: sizes.
      mesh: how many devices along each axis.
      rules: name of a set, or rules.
      batch: rows of all devices together, of `time` tokens.
      time: tokens of a row.
      remat: policy, as of `Transformer`.
      dtype: of activations.
      attention: implementation, as of `Transformer`.

    Raises:
      ValueError: as `tree_shardings`; a batch that the mesh cannot cut.
    """
    rules = rule_set(rules)
    if batch % num_shards("batch", mesh, rules):
        raise ValueError(
            f"batch: expected a multiple of {num_shards('batch', mesh, rules)} shards, got {batch}"
        )
    rows = batch // num_shards("batch", mesh, rules)
    _, weights = abstract_model(config)
    owned = _bytes_per_device(weights, mesh, rules)
    share = _share_of_a_device(config, mesh, rules)
    per_row = partial(_kept_bytes, time=time, dtype=jnp.dtype(dtype), attention=attention)
    return DeviceBytes(
        weights=owned,
        gradients=owned,
        moments=2 * owned,
        gathered=_gathered_bytes(weights, mesh, rules, remat, jnp.dtype(dtype)),
        kept=rows * per_row(share, remat=remat),
        recomputed=rows * _recomputed_bytes(share, remat, per_row),
        logits=2 * rows * time * share.vocab_size * 4,
    )


def _gathered_bytes(
    weights: Any, mesh: Mesh | AbstractMesh, rules: Rules, remat: str, dtype: np.dtype
) -> int:
    """The table, and the matrices of the layers at work, whole along `embed`."""
    in_use = partial(_bytes_per_device, mesh=mesh, rules={**rules, "embed": ()})
    matrices = {
        kind: {part: layers[part] for part in ("attention", "mlp")}
        for kind, layers in weights["pairs"].items()
    }
    num_layers = 2 * jax.tree.leaves(matrices)[0].shape[0]
    at_once = {"none": num_layers, "dots": 2, "pair": 2, "layer": 1}[remat]
    all_layers = in_use(matrices) * dtype.itemsize // 4
    return in_use(weights["embedder"]) + at_once * all_layers // num_layers


def _recomputed_bytes(share: Gemma2Config, remat: str, per_row: Callable[..., int]) -> int:
    """What one row holds of what a policy computes again at once, beyond what it keeps."""
    if remat == "none":
        return 0
    pair = dataclasses.replace(share, num_layers=2)
    everything = per_row(pair, remat="none")
    if remat == "dots":
        return everything - per_row(pair, remat="dots")
    return everything // 2 if remat == "layer" else everything


def _bytes_per_device(weights: Any, mesh: Mesh | AbstractMesh, rules: Rules) -> int:
    """Float32 bytes of one device's part of these weights."""
    shardings = tree_shardings(weights, mesh, rules)
    parts = jax.tree.map(lambda w, s: int(np.prod(s.shard_shape(w.shape))), weights, shardings)
    return 4 * sum(jax.tree.leaves(parts))


def _share_of_a_device(
    config: Gemma2Config, mesh: Mesh | AbstractMesh, rules: Rules
) -> Gemma2Config:
    """The model of the heads, MLP columns and vocabulary that one device computes with."""

    def part(name: str, size: int) -> int:
        return size // num_shards(name, mesh, rules)

    heads = part("heads", config.num_heads)
    return dataclasses.replace(
        config,
        vocab_size=part("vocab", config.vocab_size),
        num_heads=heads,
        num_kv_heads=min(heads, part("kv_heads", config.num_kv_heads)),
        mlp_dim=part("mlp", config.mlp_dim),
    )


@cache
def _kept_bytes(
    config: Gemma2Config, *, time: int, remat: str, dtype: np.dtype, attention: str | None
) -> int:
    """Bytes for each row of the batch in what the backward pass of `hidden` closes over."""
    graph, weights = abstract_model(config, dtype=dtype, remat=remat, attention=attention)

    def backward(weights: Any, tokens: jax.Array) -> Any:
        return jax.vjp(lambda weights: nnx.merge(graph, weights).hidden(tokens), weights)[1]

    def kept(rows: int) -> int:
        tokens = jax.ShapeDtypeStruct((rows, time), jnp.int32)
        leaves = jax.tree.leaves(jax.eval_shape(backward, weights, tokens))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    return kept(3) - kept(2)  # what does not grow with the batch is weights and their copies


def device_flops(
    forward: Flops,
    mesh: Mesh | AbstractMesh,
    rules: str | Rules,
    *,
    tokens: int,
    remat: str,
) -> Flops:
    """FLOPs of one device in a training step of so many tokens over the whole mesh.

    Forward once, backward twice, and what `remat` computes again once more. An implementation of
    attention that recomputes of its own accord is not counted as doing so.

    Args:
      forward: of one token, from `accounting`: masked keys skipped or not.
      mesh: how many devices along each axis.
      rules: name of a set, or rules.
      tokens: of the global batch.
      remat: policy, as of `Transformer`.
    """
    cut_along = {
        "query": "heads",
        "key": "kv_heads",
        "value": "kv_heads",
        "output": "heads",
        "local_attention": "heads",
        "global_attention": "heads",
        "mlp": "mlp",
        "unembedding": "vocab",
    }
    again = {
        "none": (),
        "dots": ("local_attention", "global_attention"),
        "pair": [part for part in cut_along if part != "unembedding"],
        "layer": [part for part in cut_along if part != "unembedding"],
    }[remat]
    local_tokens = tokens / num_shards("batch", mesh, rules)
    return Flops(
        **{
            part: (4 if part in again else 3)
            * flops
            * local_tokens
            / num_shards(cut_along[part], mesh, rules)
            for part, flops in forward.by_part().items()
        }
    )
