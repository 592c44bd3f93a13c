"""Strict numerics and run-time shape checks, for every test of the library."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MUJOCO_GL", "disabled")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Shapes in signatures are checked here and nowhere else: the library itself pays nothing for them.
install_import_hook("matchbook", "beartype.beartype")
