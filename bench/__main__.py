"""`make bench`: every benchmark, one line each. Run it on a quiet machine."""

import os

import jax

from bench import attention, bond, compiling, control, decode, distill, fit, gemma
from matchbook.lab.passport import processor


def main() -> None:
    """Print where this runs, then each line as soon as it is measured."""
    devices = jax.devices()
    beside = f"{os.cpu_count()} cores of {processor()}"
    print(f"{len(devices)} x {devices[0].device_kind}, {beside}, jax {jax.__version__}")
    for module in (gemma, distill, bond, attention, decode, compiling, fit, control):
        for row in module.rows():
            print(row, flush=True)


if __name__ == "__main__":
    main()
