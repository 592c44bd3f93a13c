"""Artifacts: what is too large for a record (a trained teacher, a replay), made once and kept.

They stay in `runs/artifacts/`, found by name, parameters, and the experiment's version and data.
Unusual: what was made just now is read back from the disk too, so that the first use and every
later one see the same value.
"""

import sys
from collections.abc import Callable
from typing import Any

from filelock import FileLock

from matchbook.lab.records import Identity
from matchbook.lab.running import Running, current
from matchbook.lab.session import session

_made_here: set[str] = set()  # in a fresh session, what this process has made afresh already


def artifact(name: str, make: Callable[..., Any], /, **params: Any) -> Any:
    """`make(**params)`, stored: made by the first process that asks, read by all others.

    Within a run it belongs to that run's experiment, version and data, but not to its arm or seed:
    what depends on those takes them as parameters. Inside `make`, `fit` keeps checkpoints.

    Args:
        name: letters, digits and _.+=-
        make: returns nested dicts, lists and tuples of arrays, numbers and text; an
            `nnx.State` is given back as the pure dict that `nnx.merge` takes.
        params: JSON scalars and lists of them, as for a run.

    Raises:
        ValueError: a parameter or a part of the value cannot be stored; names it.
    """
    from matchbook.lab import storage

    outer, now = current(), session()
    identity = Identity(
        experiment=outer.identity.experiment if outer else "artifacts",
        version=outer.identity.version if outer else 0,
        arm=name,
        seed=0,
        params=params,
        data=outer.identity.data if outer else None,
    )
    folder = now.runs / "artifacts" / f"{name}-{identity.key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        stale = now.fresh and str(folder) not in _made_here
        if folder.exists() and not stale:
            try:
                return storage.load(folder)["value"]
            except Exception as damage:  # Orbax raises of many kinds
                message = f"{folder.name} is damaged ({damage}): made again"
                print(message, file=sys.stderr, flush=True)
        running = Running(
            identity,
            now,
            profile=outer.profile if outer else None,
            label=f"{outer.label}, {name}" if outer else name,
            folder="artifact-" + identity.key,
        )
        with running:
            value = _pure(make(**identity.params))
        storage.remove(folder)
        storage.save(folder, {"value": value, "passport": running.passport()})
        _made_here.add(str(folder))
        running.clean()
        return storage.load(folder)["value"]


def _pure(value: Any) -> Any:
    from flax import nnx

    return nnx.to_pure_dict(value) if isinstance(value, nnx.State) else value
