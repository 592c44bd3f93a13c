"""Trees of arrays on disk: one Orbax folder for the arrays, one JSON file for everything else.

A folder is there whole or not at all. Unusual: what is stored is a *plain* tree (dicts, lists and
tuples of arrays, JSON scalars and bytes), so that it is read back without a template and equal in
type, also to NumPy or JAX, to typed PRNG keys and to arrays of size zero (Orbax refuses those).
"""

import base64
import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

_ARRAYS, _TREE = "arrays", "tree.json"


def save(folder: Path, tree: Any) -> None:
    """Store a plain tree as `folder`, which must not exist yet; safe against a kill at any moment.

    Raises:
        ValueError: the tree holds something that is not plain; names its place and type.
    """
    arrays: list[Any] = []
    structure = _encode(tree, arrays, "")
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    payload = {str(i): _payload(x) for i, x in enumerate(arrays) if x.size}
    if payload:
        _orbax().save((unfinished / _ARRAYS).resolve(), args=ocp.args.PyTreeSave(payload))
    (unfinished / _TREE).write_text(json.dumps(structure), encoding="utf-8")
    unfinished.rename(folder)


def load(folder: Path, shardings: Sequence[jax.sharding.Sharding | None] = ()) -> Any:
    """The tree stored in `folder`; whatever it raises means that the folder is damaged.

    Args:
        folder: where `save` put it.
        shardings: of the first arrays in the tree, in order; JAX arrays without one are not
            committed to a device.
    """
    structure = json.loads((folder / _TREE).read_text(encoding="utf-8"))
    leaves: list[dict[str, Any]] = []
    _decode(structure, leaves.append)
    wanted: dict[str, Any] = {}
    for i, leaf in enumerate(leaves):
        if 0 in leaf["shape"]:
            continue
        sharding = shardings[i] if i < len(shardings) else None
        wanted[str(i)] = (
            ocp.RestoreArgs(restore_type=np.ndarray)
            if sharding is None
            else ocp.ArrayRestoreArgs(sharding=sharding)
        )
    found = {}
    if wanted:
        arguments = ocp.args.PyTreeRestore(restore_args=wanted)
        found = _orbax().restore((folder / _ARRAYS).resolve(), args=arguments)
    arrays = iter([_array(leaf, found.get(str(i))) for i, leaf in enumerate(leaves)])
    return _decode(structure, lambda _: next(arrays))


def remove(folder: Path) -> None:
    """Delete a stored tree, if it is there; a kill in between leaves nothing that looks whole."""
    if folder.exists():
        unwanted = folder.with_name(folder.name + ".unwanted")
        shutil.rmtree(unwanted, ignore_errors=True)
        folder.rename(unwanted)
        shutil.rmtree(unwanted, ignore_errors=True)


@cache
def _orbax() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _encode(tree: Any, arrays: list[Any], place: str) -> Any:
    """The tree as JSON; its arrays are appended to `arrays` in the order they are met."""
    if _is_json(tree) or (type(tree) is list and all(map(_is_json, tree))):
        return {"value": tree}
    if type(tree) is bytes:
        return {"bytes": base64.b64encode(tree).decode()}
    if type(tree) in (list, tuple):
        items = [_encode(item, arrays, f"{place}[{i}]") for i, item in enumerate(tree)]
        return {type(tree).__name__: items}
    if type(tree) is dict and all(type(key) in (str, int) for key in tree):
        return {"dict": [[key, _encode(v, arrays, f"{place}[{key!r}]")] for key, v in tree.items()]}
    if isinstance(tree, jax.Array | np.ndarray | np.generic) and tree.dtype != object:
        arrays.append(tree)
        return {"array": _describe(tree)}
    raise ValueError(
        f"what is stored is made of dicts (keys: text or integers), lists, tuples, arrays, numbers "
        f"and text; got {type(tree).__name__} at {place or 'the top'}"
    )


def _is_json(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _decode(structure: Any, array: Any) -> Any:
    """The inverse of `_encode`; `array(description)` gives the arrays in their order."""
    ((kind, content),) = structure.items()
    if kind == "array":
        return array(content)
    if kind == "dict":
        return {key: _decode(value, array) for key, value in content}
    if kind in ("list", "tuple"):
        items = [_decode(item, array) for item in content]
        return items if kind == "list" else tuple(items)
    return base64.b64decode(content) if kind == "bytes" else content


def _describe(x: Any) -> dict[str, Any]:
    if isinstance(x, jax.Array):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return {"kind": "key", "shape": x.shape, "impl": str(jax.random.key_impl(x))}
        kind = "jax"
    else:
        kind = "scalar" if isinstance(x, np.generic) else "numpy"
    return {"kind": kind, "shape": x.shape, "dtype": x.dtype.name}


def _payload(x: Any) -> Any:
    if isinstance(x, np.generic):
        return np.asarray(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(x)
    return x


def _array(leaf: dict[str, Any], found: Any) -> Any:
    """What was stored, as what it was: `found` is None for an array of size zero."""
    shape = tuple(leaf["shape"])
    if leaf["kind"] == "key":
        if found is None:
            return jax.random.split(jax.random.key(0, impl=leaf["impl"]), shape)
        return jax.random.wrap_key_data(jnp.asarray(found), impl=leaf["impl"])
    if found is None:
        found = np.zeros(shape, jnp.dtype(leaf["dtype"]))
    if found.shape != shape or found.dtype.name != leaf["dtype"]:
        raise ValueError(f"expected an array {leaf}, found {found.dtype}{found.shape}")
    if leaf["kind"] == "jax":
        return jnp.asarray(found)
    return found[()] if leaf["kind"] == "scalar" else found
