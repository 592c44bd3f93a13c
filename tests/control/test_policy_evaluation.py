"""The critic network alone: a scalar one comes close to a value that is a formula."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from learners import FAST

from matchbook.control import LinearQuadratic, PolicyEvaluation
from matchbook.critics import MixtureOfGaussians, Scalar

PROBLEM = LinearQuadratic(a=0.8, b=0.5, q=1.0, r=0.3, noise=0.2, discount=0.9)
SMALL = {"problem": PROBLEM, "sizes": (16,), "batch_size": 32, "num_actions": 2}


def trained(one, scale, steps):
    state, batches = one.init(0), jnp.full(steps, scale, jnp.float32)
    scan = jax.jit(lambda s, b: jax.lax.scan(one.step, s, b)[0], compiler_options=FAST)
    return one.value_error(scan(state, batches), scale)["value_error"]


def test_a_scalar_critic_learns_the_value_at_any_scale_in_its_unit():
    settings = SMALL | {"problem": PROBLEM._replace(discount=0.5), "batch_size": 64}
    one = PolicyEvaluation(
        critic=Scalar(), learning_rate=3e-3, normalization_rate=1e-2, target_period=10, **settings
    )
    errors = [trained(one, scale, 1500) for scale in (0.01, 100.0)]
    assert max(errors) < 0.35
    np.testing.assert_allclose(*errors, rtol=0.2)


def test_a_perfect_critic_has_no_error():
    """The exact values in place of the network's."""

    class Exact(Scalar):
        def mean(self, distribution):
            x, offset = np.meshgrid(np.linspace(-1.5, 1.5, 21), [-1, 0, 1])
            u = -PROBLEM.gain * x + 0.3 * offset
            exact = PROBLEM.policy_action_value(PROBLEM.gain, 0.3, x, u)
            return jnp.asarray(7.0 * exact.ravel(), jnp.float32)

    one = PolicyEvaluation(critic=Exact(), **SMALL)
    assert one.value_error(one.init(0), 7.0)["value_error"] < 1e-6


def test_mixtures_step_too():
    one = PolicyEvaluation(critic=MixtureOfGaussians(components=2, num_nodes=2), **SMALL)
    state = jax.eval_shape(lambda: one.init(0))
    new, metrics = jax.eval_shape(one.step, state, jax.ShapeDtypeStruct((), jnp.float32))
    assert jax.tree.map(lambda x: x.shape, new) == jax.tree.map(lambda x: x.shape, state)
    assert list(itertools.islice(metrics, 2)) == ["critic_loss"]
