"""How a model lies on a mesh of devices (Gemma 2, section 4 and Table 3): rules by dimension.

Every dimension of every weight has a name, and a rule says along which mesh axes that name is cut.
Unusual: activations are not annotated. The model has one constraint, `dimensions.gathered`, which
collects a layer's weights along `embed` where they are used; all else follows from the batch.

mesh = sharding.make_mesh(data=4, model=2)
state = sharding.shard(distill.train_state(weights, optimizer), mesh, "tensor_parallel")
rows = jax.device_put(rows, sharding.batch_sharding(mesh, "tensor_parallel"))
state, metrics = jax.jit(distill.pretrain_step(graph, optimizer))(state, rows)
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.dimensions import DIMENSIONS, dimension_names, dotted
from matchbook.gemma.model import Transformer

AXES = ("data", "model")
AUTO = (AxisType.Auto, AxisType.Auto)

type Rules = Mapping[str, tuple[str, ...]]
"""Dimension name -> mesh axes that cut it; a dimension that is not named is whole everywhere."""

RULES: dict[str, Rules] = {
    # Weights whole on each device.
    "data_parallel": {"batch": ("data", "model")},
    # ZeRO-3: each device owns a part of each weight, of its gradient and of its moments.
    "fully_sharded": {"batch": ("data", "model"), "embed": ("data", "model")},
    # The paper's: ZeRO-3 over `data`, and heads, MLP and vocabulary computed in parts over `model`.
    "tensor_parallel": {
        "batch": ("data",),
        "embed": ("data",),
        "vocab": ("model",),
        "heads": ("model",),
        "kv_heads": ("model",),
        "mlp": ("model",),
    },
}
_NAMES = {"batch", "layers", *(name for names in DIMENSIONS.values() for name in names)}


def make_mesh(*, data: int, model: int) -> Mesh:
    """All devices as a mesh of `data` x `model`, neighbours along `model`.

    Raises:
      ValueError: a product that is not the number of devices.
    """
    if min(data, model) < 1 or data * model != jax.device_count():
        raise ValueError(
            f"data, model: expected a product of {jax.device_count()}, the number of devices, "
            f"got {data} x {model} = {data * model}"
        )
    return jax.make_mesh((data, model), AXES, axis_types=AUTO)


def abstract_mesh(*, data: int, model: int) -> AbstractMesh:
    """The same without devices: to plan and lower for machines that are not here."""
    return AbstractMesh((data, model), AXES, axis_types=AUTO)


def rule_set(rules: str | Rules) -> Rules:
    """The rules of that name, or the given ones, checked.

    Own rules start from a set: `{**RULES["tensor_parallel"], "kv_heads": ()}` leaves keys and
    values whole where there are fewer such heads than model shards.

    Raises:
      ValueError: an unknown set, dimension or mesh axis.
    """
    if isinstance(rules, str):
        if rules not in RULES:
            raise ValueError(f"rules: expected one of {list(RULES)} or a mapping, got {rules!r}")
        return RULES[rules]
    for name, axes in rules.items():
        if name not in _NAMES:
            raise ValueError(f"rules: expected dimensions among {sorted(_NAMES)}, got {name!r}")
        if not isinstance(axes, tuple) or not set(axes) <= set(AXES):
            raise ValueError(f"rules: {name}: expected a tuple of axes of {AXES}, got {axes!r}")
    return rules


def num_shards(name: str, mesh: Mesh | AbstractMesh, rules: str | Rules) -> int:
    """Into how many parts the rules cut the dimension of this name."""
    return math.prod(mesh.shape[axis] for axis in rule_set(rules).get(name, ()))


def batch_sharding(mesh: Mesh | AbstractMesh, rules: str | Rules) -> NamedSharding:
    """Where the rows of `[batch, ...]` arrays lie: tokens, positions, segments, logits."""
    return NamedSharding(mesh, PartitionSpec(rule_set(rules).get("batch", ()) or None))


def weight_shardings(
    config: Gemma2Config, mesh: Mesh | AbstractMesh, rules: str | Rules
) -> dict[str, Any]:
    """Shardings of a model's weights, nested like `nnx.to_pure_dict(nnx.state(model))`.

    Nothing is allocated. `jax.jit(init, out_shardings=weight_shardings(...))` then makes each part
    of the weights where it belongs, so that no device ever holds them all.

    Raises:
      ValueError: as `tree_shardings`.
    """
    model = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    return tree_shardings(nnx.to_pure_dict(nnx.state(model)), mesh, rules)


def tree_shardings(tree: Any, mesh: Mesh | AbstractMesh, rules: str | Rules) -> Any:
    """The sharding of every array of a tree that holds weights, or anything of their shapes.

    Serves nested dicts, `nnx.State`, gradients, and whole training states: AdamW's moments lie
    where their weights lie. Scalars, such as the count of steps, are on every device.

    Args:
      tree: arrays, or `jax.ShapeDtypeStruct`s, whose paths end in the name of a weight.
      mesh: of `make_mesh` or `abstract_mesh`.
      rules: name of a set in `RULES`, or rules.

    Raises:
      ValueError: a dimension that the rules cut into parts that are not equal; an array that is
        no weight; what `rule_set` raises.
    """
    rules = rule_set(rules)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _sharding(dotted(path), leaf.shape, mesh, rules), tree
    )


def shard(tree: Any, mesh: Mesh, rules: str | Rules) -> Any:
    """The tree with its arrays moved to where `tree_shardings` wants them."""
    return jax.device_put(tree, tree_shardings(tree, mesh, rules))


def _sharding(
    path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, rules: Rules
) -> NamedSharding:
    if not shape:
        return NamedSharding(mesh, PartitionSpec())
    spec = []
    for name, size in zip(dimension_names(path, len(shape)), shape, strict=True):
        axes, shards = rules.get(name, ()), num_shards(name, mesh, rules)
        if size % shards:
            raise ValueError(
                f"{path}: {name}: expected a multiple of {shards}, the devices along mesh axes "
                f"{axes}, got {size}: change the mesh, or set {name!r}: () in the rules"
            )
        spec.append(axes or None)
    return NamedSharding(mesh, PartitionSpec(*spec))
