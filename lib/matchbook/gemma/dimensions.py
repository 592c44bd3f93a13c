"""Names for the dimensions of every weight, and their one use inside the model: `gathered`.

Section 4 of the report has weights cut in pieces over all devices (ZeRO-3). Unusual: activations
carry no annotations. The model says where weights are collected for use, and the partitioner gets
the rest right from where the batch lies.
"""

from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array

# The name of each weight, which ends its path, and the names of its dimensions; one more in front
# is "layers", the stack of pairs. Norm scales are not worth cutting: theirs is not "embed".
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "table": ("vocab", "embed"),
    "query": ("embed", "heads", "head_dim"),
    "key": ("embed", "kv_heads", "head_dim"),
    "value": ("embed", "kv_heads", "head_dim"),
    "output": ("heads", "head_dim", "embed"),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
    "scale": ("norm",),
}


def dimension_names(path: str, ndim: int) -> tuple[str, ...]:
    """Names of the dimensions of the weight at this dotted path, such as `pairs...mlp.gate`.

    Raises:
      ValueError: a path that does not end in the name of a weight, or another number of dimensions.
    """
    names = DIMENSIONS.get(path.rsplit(".", 1)[-1])
    if names is None or not len(names) <= ndim <= len(names) + 1:
        raise ValueError(
            f"{path}: expected an array named like one of {list(DIMENSIONS)}, with its dimensions "
            f"{names or ''} and at most one for layers, got one of {ndim} dimensions"
        )
    return ("layers",) * (ndim - len(names)) + names


def dotted(path: tuple[Any, ...]) -> str:
    """A tree path as `pairs.local_layer.mlp.gate`; the `.value` of an nnx variable is no name."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator=".")


def gathered[Module: nnx.Module](module: Module, dtype: DTypeLike | None = None) -> Module:
    """The module with its weights whole along `embed`: what a layer computes with.

    The partitioner alone does the opposite. It keeps the weights cut and computes partial products
    of the *whole* batch on every device, activations gathered and summed over `data` for each
    product; weights are far smaller. Other dimensions stay as the rules cut them. Outside of a mesh
    nothing happens.

    Args:
      module: one or more layers, or the embedder.
      dtype: what the module casts its matrices to at use. Cast before they travel, bfloat16 ones
        are half the traffic. Norm scales are used in float32 and stay.
    """
    graph, weights = nnx.split(module)
    whole = jax.tree_util.tree_map_with_path(lambda p, w: _whole(dotted(p), w, dtype), weights)
    return nnx.merge(graph, whole)


def _whole(path: str, weight: Array, dtype: DTypeLike | None) -> Array:
    names = dimension_names(path, weight.ndim)
    mesh = _automatic_mesh(weight)
    if mesh is None or "embed" not in names:
        return weight
    spec = (None if name == "embed" else PartitionSpec.UNCONSTRAINED for name in names)
    cast = weight if dtype is None else weight.astype(dtype)
    return jax.lax.with_sharding_constraint(cast, NamedSharding(mesh, PartitionSpec(*spec)))


def _automatic_mesh(x: Array) -> AbstractMesh | None:
    """The mesh an array lies on, or that of `jax.set_mesh`; None where we are to say nothing."""
    for mesh in (jax.typeof(x).sharding.mesh, jax.sharding.get_abstract_mesh()):
        if not mesh.empty:
            return mesh if mesh.are_all_axes_auto else None
    return None
