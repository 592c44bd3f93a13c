"""Checkpoints of a training loop: the newest two, each whole or absent.

Unusual: a checkpoint carries a digest of everything that must be equal for it to be continued
(code, loop lengths, shapes); one that does not match is left aside, with a line that says so.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from matchbook.lab import storage
from matchbook.lab.records import digest
from matchbook.lab.running import Running

SECONDS = 30.0  # between two checkpoints of a loop; a kill costs at most this much work
LAST_SECONDS = 10.0  # what a loop must have cost since its last one to be kept at its end
KEEP = 2


class Checkpoints:
    """The checkpoints of one loop of the computation at work.

    Args:
        running: the run or artifact that the loop belongs to.
        name: of the loop.
        state: its initial state: gives the structure, shapes, types and shardings.
        setting: everything else that must not change in between, as JSON scalars.
        every: steps between two checkpoints, or None for every 30 seconds.
    """

    def __init__(
        self, running: Running, name: str, state: Any, setting: list[Any], every: int | None
    ):
        self._running, self._folder, self._every = running, running.checkpoints(name), every
        self._like, self._structure = jax.tree.flatten(state)
        places = jax.tree_util.tree_leaves_with_path(state)
        leaves = [[jax.tree_util.keystr(at), str(x.dtype), list(x.shape)] for at, x in places]
        self._digest = digest([running.code(), setting, leaves])
        self._saved_at = time.monotonic()

    def due(self, step: int, *, last: bool) -> bool:
        """Whether the state after `step` updates should be saved now."""
        if self._every is not None:
            return last or step % self._every == 0
        return time.monotonic() - self._saved_at >= (LAST_SECONDS if last else SECONDS)

    def save(self, step: int, state: Any, rest: dict[str, Any]) -> None:
        """Save the state after `step` updates with `rest`, a plain tree; drop the third newest."""
        folder = self._folder / f"{step:010d}"
        storage.remove(folder)
        content = {
            "state": jax.tree.leaves(state),
            "digest": self._digest,
            "step": step,
            "seconds": self._running.meter.seconds(),
            "resumed": self._running.meter.resumed,
            **rest,
        }
        storage.save(folder, content)
        for old in self._found()[KEEP:]:
            storage.remove(old)
        self._saved_at = time.monotonic()

    def latest(self) -> tuple[int, Any, dict[str, Any]] | None:
        """(step, state, rest) of the newest checkpoint that can be continued."""
        if self._folder.exists():
            for leftover in self._folder.glob("*.un*"):
                shutil.rmtree(leftover, ignore_errors=True)
        for folder in self._found():
            try:
                content = storage.load(folder, [_sharding(leaf) for leaf in self._like])
            except Exception as damage:  # Orbax raises of many kinds
                _say(f"checkpoint {folder.name} is damaged ({damage}): looking for an older one")
                continue
            if content["digest"] != self._digest:
                _say(f"checkpoint {folder.name} is of other code or settings: starting over")
                return None
            self._running.meter.continues(content["seconds"], content["resumed"])
            state = jax.tree.unflatten(self._structure, content["state"])
            return content["step"], state, content
        return None

    def _found(self) -> list[Path]:
        """Newest first."""
        return sorted((p for p in self._folder.glob("*") if p.name.isdecimal()), reverse=True)


def _sharding(leaf: jax.Array) -> jax.sharding.Sharding | None:
    """Where a leaf was put on purpose; None where it may go with the others."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return leaf.sharding if leaf.committed else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
