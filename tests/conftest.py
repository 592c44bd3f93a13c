"""Strict numerics and run-time shape checks, for every test of the library."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MUJOCO_GL", "disabled")
# Most tests run a program once or twice: what counts is how long XLA takes to make it.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Shapes in signatures are checked here and nowhere else: the library itself pays nothing for them.
install_import_hook("matchbook", "beartype.beartype")
