"""Passports: how a run was made, and the one command that makes it again.

Code, lock file, software, device, determinism flags, seconds and memory; the parameters, the seed
and the data digest stand beside it in the record. Unusual: nothing names the machine or a place
on it: no host, no user, no paths.
"""

import ast
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_TRACKED = ("lib", "notebooks", "pyproject.toml", "uv.lock")  # what a result can depend on
_COMPILING = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_compile_seconds = 0.0


class Meter:
    """Wall and compile seconds since it was made; `earlier` ones come from an interrupted run."""

    def __init__(self):
        _listen()
        self._start = time.perf_counter(), _compile_seconds
        self.earlier = {"wall_seconds": 0.0, "compile_seconds": 0.0}
        self.resumed = 0

    def continues(self, seconds: dict[str, float], resumed: int) -> None:
        """Count what an interrupted process had spent up to the checkpoint that is continued."""
        if seconds["wall_seconds"] > self.earlier["wall_seconds"]:
            self.earlier = dict(seconds)
        self.resumed = max(self.resumed, resumed + 1)

    def seconds(self) -> dict[str, float]:
        """`wall_seconds`, and of them `compile_seconds`: lowering and XLA, without tracing."""
        now = time.perf_counter() - self._start[0], _compile_seconds - self._start[1]
        return {
            name: round(before + since, 3)
            for (name, before), since in zip(self.earlier.items(), now, strict=True)
        }


def make_passport(
    *, root: Path, notebook: str, profile: str | None, params: Mapping[str, Any], meter: Meter
) -> dict[str, Any]:
    """The passport of what has just been computed, as a flat JSON object.

    Without a profile there is no notebook to run, and no command.
    """
    import jax

    device = jax.devices()[0]
    return {
        "command": command(root, notebook, profile, params) if profile else None,
        "profile": profile,
        **source(root),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cpu_count": os.cpu_count(),
        "device_platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "determinism": {
            "xla_flags": sorted(f for f in os.environ.get("XLA_FLAGS", "").split() if "/" not in f),
            "matmul_precision": jax.config.jax_default_matmul_precision,
            "x64": jax.config.jax_enable_x64,
            "threefry_partitionable": jax.config.jax_threefry_partitionable,
        },
        "attention": _attention(),
        **meter.seconds(),
        "resumed": meter.resumed,
        **_peak_memory(device),
    }


@cache
def processor() -> str:
    """The model of the CPU, on which speed depends by far more than on the number of its cores."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)
        return named[1].strip() if named else platform.machine()
    return platform.processor() or platform.machine()


def source(root: Path) -> dict[str, Any]:
    """Git commit and dirty flag (None outside of git), digests of the lock file and the library."""
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", *_TRACKED) if commit else None
    lock = root / "uv.lock"
    return {
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.is_file() else None,
        "library": library_digest(),
    }


@cache
def library_digest() -> str:
    """Digest of the library's source: the names and contents of its Python files."""
    package = Path(__file__).resolve().parents[1]
    hasher = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        hasher.update(path.relative_to(package).as_posix().encode() + b"\0")
        hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()[:16]


def command(root: Path, notebook: str, profile: str, params: Mapping[str, Any]) -> str:
    """`matchbook run NOTEBOOK --profile P -p name=value ...`, with what differs from the notebook.

    What a parameter was set to is read from the kernel that runs the notebook, or, outside of
    one, from the run's own parameters.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    values = params if shell is None else shell.user_ns
    words = ["matchbook", "run", notebook, "--profile", profile]
    for name, default in _declared(root / "notebooks" / f"{notebook}.py").items():
        value = values.get(name, default)
        if name != "profile" and type(value) in (bool, int, float, str, list) and value != default:
            text = value if isinstance(value, str) else json.dumps(value)
            words += ["-p", f"{name}={text}"]
    return shlex.join(words)


def _declared(notebook: Path) -> dict[str, Any]:
    """The annotated literals of a notebook's source: its parameters and their defaults."""
    if not notebook.is_file():
        return {}
    declared = {}
    for node in ast.parse(notebook.read_text(encoding="utf-8")).body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                try:
                    declared[name] = ast.literal_eval(value)
                except ValueError:
                    continue
    return declared


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _attention() -> str | None:
    """How Gemma 2's attention is computed on this platform; None where a run does not use it."""
    used = sys.modules.get("matchbook.gemma.attention")
    return used.describe() if used else None


def _peak_memory(device: Any) -> dict[str, int | None]:
    """Bytes at the highest point of this process, on the host and on its first device."""
    host = None
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    except ImportError:  # Windows
        pass
    stats = device.memory_stats() or {}
    return {
        "peak_host_bytes": host,
        "peak_device_bytes": stats.get("peak_bytes_in_use"),
    }


@cache
def _listen() -> None:
    from jax import monitoring

    def add(event: str, duration_secs: float, **_: Any) -> None:
        global _compile_seconds
        if event in _COMPILING:
            _compile_seconds += duration_secs

    monitoring.register_event_duration_secs_listener(add)
