"""Freed memory that goes back to the system while Orbax works.

Unusual: this turns a knob of glibc. Orbax's threads decode a leaf in small blocks; by default glibc
keeps up to 64 MB of freed blocks for each thread that ever held some, which on many cores is more
than the 2B. Elsewhere than on Linux with glibc nothing is done.
"""

import contextlib
import ctypes
import sys
from collections.abc import Generator

# From malloc.h; the defaults, once a large block was freed, are the largest values there are.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
DEFAULTS = {TRIM_THRESHOLD: 64 * 2**20, MMAP_THRESHOLD: 32 * 2**20}
EAGER = 2**20  # bytes


@contextlib.contextmanager
def freed_memory_returned() -> Generator[None]:
    """Within the block, what is freed goes back to the system in pieces of a megabyte."""
    found = ctypes.CDLL(None) if sys.platform == "linux" else None
    set_option = getattr(found, "mallopt", None)
    try:
        for option in DEFAULTS:
            if set_option:
                set_option(option, EAGER)
        yield
    finally:
        for option, value in DEFAULTS.items():
            if set_option:
                set_option(option, value)
