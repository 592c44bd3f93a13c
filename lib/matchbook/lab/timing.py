"""Times that can be believed: warm, blocked until ready, medians, beside limits of this machine.

Unusual: a limit (what the machine does at best) is measured in the same process as what is held
against it, since nobody's machine is as fast as its data sheet.
"""

import statistics
import time
from collections.abc import Callable
from functools import cache

__all__ = ["matmul_flops_per_second", "read_bytes_per_second", "seconds"]


def seconds(function: Callable[[], object], *, repeats: int = 5) -> float:
    """Median wall seconds of `function`, after one call that compiles and warms."""
    import jax

    jax.block_until_ready(function())
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


@cache
def matmul_flops_per_second(size: int = 2048, dtype: str = "float32") -> float:
    """The rate of one square product on this device: the limit of dense work."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / seconds(lambda: product(x, x))


@cache
def read_bytes_per_second(megabytes: int = 128, dtype: str = "float32") -> float:
    """How fast a matrix of so many megabytes passes through a product with one vector.

    The limit of decoding, which reads every weight once for each token.
    """
    import jax
    import jax.numpy as jnp

    inner = 2048
    item = jnp.dtype(dtype).itemsize
    matrix = jnp.ones((inner, megabytes * 2**20 // item // inner), dtype)
    product = jax.jit(jnp.matmul)
    row = jnp.ones((1, inner), dtype)
    return matrix.size * item / seconds(lambda: product(row, matrix), repeats=9)
