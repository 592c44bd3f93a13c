"""The Jupyter kernel of a batch run: this very interpreter, over local sockets, without a reader.

Unusual: installed kernel specifications are not looked at, since the `python3` of a user's home
may be another environment; and no TCP port is taken, since two runs that start together can pick
the same one.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

# Nobody watches: pictures are drawn without a display, the debugger's start-up warning says
# nothing, and sets of strings are walked in the same order on every run.
_BATCH = {"MPLBACKEND": "agg", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONHASHSEED": "0"}


def kernel_manager(environment: Mapping[str, str], folder: Path) -> type[AsyncKernelManager]:
    """A manager class for nbclient whose kernel sees `environment` on top of this process's own.

    Args:
        environment: variables that the kernel gets.
        folder: holds the connection's files, and `kernel.log`, what the process itself prints.

    A kernel ends with the process that started it, also if that is killed: ipykernel watches its
    parent and exits a second after its death.
    """
    specification = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="Python 3 (ipykernel)",
        language="python",
        # jupyter_client expands $VARIABLES here
        env={name: text.replace("$", "$$") for name, text in {**_BATCH, **environment}.items()},
    )

    class BatchKernelManager(AsyncKernelManager):
        def __init__(self, **settings: Any):
            super().__init__(**settings)
            self.connection_file = str(folder / "kernel.json")
            if os.name == "posix" and len(str(folder)) < 90:  # a socket's path ends at 104
                self.transport, self.ip = "ipc", str(folder / "kernel")

        @property
        def kernel_spec(self) -> KernelSpec:
            return specification

        async def start_kernel(self, **settings: Any) -> None:  # ty: ignore[incompatible-mutable-override]
            with (folder / "kernel.log").open("w") as log:
                await super().start_kernel(stdout=log, stderr=log, **settings)

    return BatchKernelManager
