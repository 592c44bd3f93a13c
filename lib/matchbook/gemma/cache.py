"""Keys and values of past tokens: a ring of W slots in local layers, everything in global ones.

Unusual: a slot knows the position of its token, -1 while it is empty, and masks come from these
positions alone. Prompts are padded on the left, so the newest token of every row stands in the same
column, column c always has slot c mod slots, and one write in place serves the whole batch.

    window 4, a prompt of 3 after 2 columns of padding, then 2 tokens of 3
    column     0  1  2  3  4  5  6  7
    position   -  -  0  1  2  3  4
    local      position 2 in slot 0, 3 in 1, 4 in 2, 1 in 3 (position 0 was in 2)
    global     position 0 in slot 2, 1 in 3, ..., 4 in 6; slots 0, 1 and 7 are empty
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from matchbook.gemma.layers import soft_cap

EMPTY = -1  # position of a slot without a token


class Slots(NamedTuple):
    """Keys, rotated, and values of one layer, in the activation dtype."""

    keys: Float[Array, "batch kv_heads slots head_dim"]
    values: Float[Array, "batch kv_heads slots head_dim"]


class Cache(NamedTuple):
    """What decoding remembers. Layers of one kind share the positions of their slots."""

    columns: Int[Array, ""]  # written so far, padding included
    local_positions: Int[Array, "batch local_slots"]
    global_positions: Int[Array, "batch global_slots"]
    layers: tuple[Slots, ...]  # first to last: local, global, local, ...


def num_slots(context: int, window: int | None) -> int:
    """Slots of a layer that will see `context` columns: as many as its window, all without one."""
    return context if window is None else min(window, context)


def into_slots(
    columns: Shaped[Array, "batch time ..."], slots: int, *, empty: int = 0
) -> Shaped[Array, "batch slots ..."]:
    """The last columns of a prompt, column c in slot c mod `slots`; `empty` where none is left."""
    time = columns.shape[1]
    if time <= slots:
        widths = [(0, 0), (0, slots - time)] + [(0, 0)] * (columns.ndim - 2)
        return jnp.pad(columns, widths, constant_values=empty)
    return jnp.roll(columns[:, -slots:], time % slots, axis=1)


def fill(
    keys: Float[Array, "batch time kv_heads head_dim"],
    values: Float[Array, "batch time kv_heads head_dim"],
    slots: int,
) -> Slots:
    """The cache of one layer after a prompt."""
    return Slots(*(into_slots(part, slots).swapaxes(1, 2) for part in (keys, values)))


def stored_positions(
    positions: Int[Array, "batch time"], segments: Int[Array, "batch time"], slots: int
) -> Int[Array, "batch slots"]:
    """Positions of a prompt's tokens in their slots.

    Padding, and documents before a row's last one, which no later token sees, leave theirs empty.
    """
    current = segments == segments[:, -1:]
    return into_slots(jnp.where(current, positions, EMPTY).astype(jnp.int32), slots, empty=EMPTY)


def write_positions(
    stored: Int[Array, "batch slots"], new: Int[Array, " batch"], column: Int[Array, ""]
) -> Int[Array, "batch slots"]:
    """`stored` with the positions of the tokens in `column`."""
    slot = column % stored.shape[1]
    return jax.lax.dynamic_update_slice_in_dim(stored, new[:, None], slot, axis=1)


def write(
    slots: Slots,
    keys: Float[Array, "batch 1 kv_heads head_dim"],
    values: Float[Array, "batch 1 kv_heads head_dim"],
    column: Int[Array, ""],
) -> Slots:
    """`slots` with one more token per row, in place where XLA owns the buffers.

    Without the barrier XLA fuses the write into each of its two readers, the attention and the next
    step, and to keep them apart copies the whole cache three times a token.
    """
    slot = column % slots.keys.shape[2]
    written = (
        jax.lax.dynamic_update_slice_in_dim(old, new.swapaxes(1, 2), slot, axis=2)
        for old, new in zip(slots, (keys, values))
    )
    return Slots(*jax.lax.optimization_barrier(tuple(written)))


def seen(
    stored: Int[Array, "batch slots"], positions: Int[Array, " batch"], window: int | None
) -> Bool[Array, "batch slots"]:
    """Which slots a query at `positions` sees: p - window < stored <= p, and never an empty one."""
    behind = positions[:, None] - stored
    mask = (stored != EMPTY) & (behind >= 0)
    return mask if window is None else mask & (behind < window)


def attend(
    q: Float[Array, "batch 1 heads head_dim"],
    slots: Slots,
    mask: Bool[Array, "batch slots"],
    *,
    softcap: int | float | None,
    scale: int | float,
) -> Float[Array, "batch 1 heads head_dim"]:
    """Attention of one query per row over its slots; the terms are those of `attention`.

    Reads all slots once: 2 x slots x kv_heads x head_dim numbers a row.
    """
    batch, _, heads, head_dim = q.shape
    kv_heads = slots.keys.shape[1]
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("bkgh,bksh->bkgs", grouped, slots.keys, preferred_element_type=jnp.float32)
    scores = jnp.where(
        mask[:, None, None, :], soft_cap(scores * scale, softcap), jnp.finfo(jnp.float32).min
    )
    weights = jax.nn.softmax(scores, axis=-1).astype(slots.values.dtype)
    mixed = jnp.einsum("bkgs,bksh->bkgh", weights, slots.values, preferred_element_type=jnp.float32)
    return mixed.reshape(batch, 1, heads, head_dim).astype(q.dtype)


def grow(cache: Cache, window: int, columns: int) -> Cache:
    """A cache that is as wide as the prompt it was filled with, with room for more columns.

    Local layers never have more slots than their `window`.
    """
    context = cache.global_positions.shape[1] + columns

    def wider(x: Array, slots: int, axis: int, empty: int = 0) -> Array:
        widths = [(0, slots - size if at == axis else 0) for at, size in enumerate(x.shape)]
        return jnp.pad(x, widths, constant_values=empty)

    near, far = num_slots(context, window), num_slots(context, None)
    return Cache(
        cache.columns,
        wider(cache.local_positions, near, 1, EMPTY),
        wider(cache.global_positions, far, 1, EMPTY),
        tuple(
            Slots(*(wider(part, (near, far)[index % 2], 2) for part in slots))
            for index, slots in enumerate(cache.layers)
        ),
    )


def repeat(cache: Cache, times: int) -> Cache:
    """Each row `times` times in a row: one prefilled prompt for several samples, copied."""
    return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0) if x.ndim else x, cache)
