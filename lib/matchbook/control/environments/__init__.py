"""Environments to act in: dm-control's suite, EnvPool's where installed, and a user's own."""

from matchbook.control.environments.adapters import from_dm_env, from_gymnasium
from matchbook.control.environments.interface import Environments, NonFiniteStep, Steps
from matchbook.control.environments.linear_quadratic import LinearQuadraticEnvironments
from matchbook.control.environments.rescaled import RescaledRewards
from matchbook.control.environments.suite import control_suite, load_environments
from matchbook.control.environments.together import Instance, Together

__all__ = [
    "Environments",
    "Instance",
    "LinearQuadraticEnvironments",
    "NonFiniteStep",
    "RescaledRewards",
    "Steps",
    "Together",
    "control_suite",
    "from_dm_env",
    "from_gymnasium",
    "load_environments",
]
