"""What a query sees, and what it does not.

Unusual: it follows from positions and segments, never from where a token happens to lie in a row,
so left padding, packing and a ring of cache slots need no special case.
"""

from jaxtyping import Array, Bool, Int


def visible(
    positions: Int[Array, "batch time"], segments: Int[Array, "batch time"], window: int | None
) -> Bool[Array, "batch time time"]:
    """Which keys (last axis) each query (middle axis) sees.

    A query at position p sees the keys of its own segment at positions k with p - window < k <= p,
    so `window` of them at most, itself included; all k <= p where `window` is None. Segment 0 is
    padding: it sees nothing, and nothing sees it.
    """
    return visible_between((positions, segments), (positions, segments), window)


def visible_between(
    queries: tuple[Int[Array, "batch queries"], Int[Array, "batch queries"]],
    keys: tuple[Int[Array, "batch keys"], Int[Array, "batch keys"]],
    window: int | Int[Array, ""] | None,
) -> Bool[Array, "batch queries keys"]:
    """As `visible`, for queries and keys that are not the same tokens: (positions, segments)."""
    query_positions, query_segments = queries[0][:, :, None], queries[1][:, :, None]
    key_positions, key_segments = keys[0][:, None, :], keys[1][:, None, :]
    behind = query_positions - key_positions
    seen = (behind >= 0) & (query_segments == key_segments) & (query_segments != 0)
    return seen if window is None else seen & (behind < window)
