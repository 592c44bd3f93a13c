"""`make bench`: every benchmark, one line each. Run it on a quiet machine."""

import jax

from bench import attention, bond, compiling, control, decode, distill, fit, gemma


def main() -> None:
    """Print where this runs, then each line as soon as it is measured."""
    devices = jax.devices()
    print(f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}")
    for module in (gemma, distill, bond, attention, decode, compiling, fit, control):
        for row in module.rows():
            print(row, flush=True)


if __name__ == "__main__":
    main()
