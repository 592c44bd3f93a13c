"""What a user writes: one import line, and the setting for laptops."""

import subprocess
import sys

import jax
import numpy as np

from matchbook import control
from matchbook.control.learning import State
from matchbook.control.presets import laptop_learner
from matchbook.control.transitions import Transition


def test_every_exported_name_is_there():
    for name in control.__all__:
        assert getattr(control, name) is not None
    assert set(control.__all__) <= set(dir(control))


def test_importing_the_package_waits_for_nothing():
    code = "import sys, matchbook.control; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_laptops_learner_steps():
    problem = control.LinearQuadratic(a=0.8, b=0.5, q=1.0, r=0.3, noise=0.2, discount=0.9)
    learner = laptop_learner(control.LinearQuadraticEnvironments(problem, 2, max_action=2.5))
    state = jax.eval_shape(lambda: learner.init(0))
    shapes = (8, 1), (8, 1), (8,), (8,), (8, 1)
    batch = Transition(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))
    new, metrics = jax.eval_shape(learner.step, state, batch)
    assert isinstance(new, State)
    assert jax.tree.map(lambda x: x.shape, new) == jax.tree.map(lambda x: x.shape, state)
    assert {"value", "critic_loss", "policy_loss", "temperature"} <= set(metrics)
