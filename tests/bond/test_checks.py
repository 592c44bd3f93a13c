"""The checks behind the notebook: they pass on what is right, and notice what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.bond import best_of_n, checks, gradients


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def errors(found, *parts):
    """Numbers that measure a difference, of the checks that are named."""
    return {k: v for k, v in found.numbers.items() if k.startswith(parts) and "error" in k}


def test_identities_hold_to_rounding(double):
    found = checks.join([checks.theorem_1(1, 20), checks.composition(1, 20)])
    found |= checks.equivalence(1, 20) | checks.gradients(1, 20)
    found |= checks.crude_reward(1, 20)
    names = ("theorem", "composition", "rlhf", "gradient.forward", "gradient.backward", "jbond")
    for name, error in errors(found, *names).items():
        assert abs(error) < (1e-8 if "finite_difference" in name else 1e-12), name
    assert checks.invariance(1, 20).numbers["invariance.largest_change"] == 0


def test_a_formula_without_the_collision_sum_is_noticed(double, monkeypatch):
    def without(log_probs, rewards, n):
        less_equal = best_of_n.log_quantiles(log_probs, rewards).less_equal
        return jax.nn.log_softmax(log_probs + (n - 1) * less_equal)

    monkeypatch.setattr(best_of_n, "log_pmf", without)
    assert checks.theorem_1(1, 20).numbers["theorem.error"] > 1e-2
    assert checks.equivalence(1, 20).numbers["rlhf.error"] > 1e-2
    assert checks.composition(1, 20).numbers["composition.error"] > 1e-3


def test_a_wrong_sign_is_noticed(double, monkeypatch):
    monkeypatch.setattr(gradients, "regularisation", gradients.printed_regularisation)
    assert checks.gradients(1, 20).numbers["gradient.regularisation.error"] > 0.1


def test_a_bound_that_is_too_low_is_noticed(double, monkeypatch):
    monkeypatch.setattr(best_of_n, "kl_bound", lambda n: float(np.log(n) - 1))
    assert checks.movement(1, 20).numbers["kl.smallest_gap"] < 0


def test_single_precision_is_reported_as_such():
    assert 1e-9 < checks.composition(1, 20).numbers["composition.error"] < 1e-5


def test_everything_is_finite_and_named_once(double):
    found = [check(0, 20) for check in checks.ON_RANDOM_SPACES]
    found += [check() for check in checks.CLOSED_FORMS] + [checks.ema_speed(300)]
    numbers, curves = checks.join(found)
    assert all(np.isfinite(value) and jnp.ndim(value) == 0 for value in numbers.values())
    assert all(np.isfinite(y).all() and x.shape == y.shape for x, y in curves.values())
    assert len(numbers) == sum(len(part.numbers) for part in found)  # no two of one name
