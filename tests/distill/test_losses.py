"""The losses: against the definition in probability space, finite differences, other packings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook import distill

TEMPERATURES = [0.5, 1.0, 3.0]


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def reference(name, student, teacher, where, temperature):
    """Sums over kept positions, in float64, from the definitions."""
    q, p = softmax(student / temperature), softmax(teacher / temperature)
    each = {"soft_target_loss": -p * np.log(q), "forward_kl_loss": p * np.log(p / q)}[name]
    return each.sum(axis=-1)[where].sum(), where.sum()


@pytest.fixture
def example():
    random = np.random.default_rng(0)
    student, teacher = random.normal(0, 3, (2, 3, 7, 11))
    return student, teacher, random.random((3, 7)) < 0.6


def single(values: np.ndarray) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", ["soft_target_loss", "forward_kl_loss"])
def test_value_is_the_definition(example, name, temperature):
    student, teacher, where = example
    total, count = getattr(distill, name)(
        single(student), single(teacher), jnp.asarray(where), temperature
    )
    expected = reference(name, student, teacher, where, temperature)
    np.testing.assert_allclose([total, count], expected, rtol=2e-6)
    assert total.dtype == count.dtype == jnp.float32


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", ["soft_target_loss", "forward_kl_loss"])
def test_gradient_is_the_finite_difference_and_stops_at_the_teacher(example, name, temperature):
    student, teacher, where = example

    def total(student, teacher):
        return getattr(distill, name)(student, teacher, jnp.asarray(where), temperature)[0]

    gradient, of_teacher = jax.grad(total, (0, 1))(single(student), single(teacher))
    expected, step = np.zeros_like(student), 1e-5
    for place in np.ndindex(student.shape):
        moved = np.zeros_like(student)
        moved[place] = step
        above = reference(name, student + moved, teacher, where, temperature)[0]
        below = reference(name, student - moved, teacher, where, temperature)[0]
        expected[place] = (above - below) / (2 * step)
    np.testing.assert_allclose(gradient, expected, atol=3e-6)
    np.testing.assert_array_equal(of_teacher, 0)


def test_kl_is_zero_at_the_teacher_and_the_soft_loss_its_entropy(example):
    _, teacher, where = example
    logits, where = single(teacher), jnp.asarray(where)
    assert distill.forward_kl_loss(logits, logits + 4.0, where)[0] == pytest.approx(0, abs=1e-5)
    p = softmax(teacher)
    entropy = -(p * np.log(p)).sum(axis=-1)[np.asarray(where)].sum()
    assert distill.soft_target_loss(logits, logits, where)[0] == pytest.approx(entropy, rel=1e-6)


def test_a_sure_teacher_is_the_next_token_loss(example):
    student, _, where = example
    targets = np.random.default_rng(1).integers(0, 11, where.shape)
    teacher = np.where(np.arange(11) == targets[..., None], 200.0, 0.0)
    logits, mask = single(student), jnp.asarray(where)
    hard = distill.next_token_loss(logits, jnp.asarray(targets, jnp.int32), mask)
    soft = distill.soft_target_loss(logits, single(teacher), mask)
    np.testing.assert_allclose(soft, hard, rtol=1e-6)
    log_q = np.log(np.take_along_axis(softmax(student), targets[..., None], -1)[..., 0])
    np.testing.assert_allclose(hard, [-log_q[where].sum(), where.sum()], rtol=2e-6)


def test_what_is_masked_out_may_be_anything(example):
    student, teacher, where = example
    student[~where] = np.nan
    total, count = distill.soft_target_loss(single(student), single(teacher), jnp.asarray(where))
    expected = reference("soft_target_loss", example[0], teacher, where, 1.0)
    np.testing.assert_allclose([total, count], expected, rtol=2e-6)


def test_logits_in_bfloat16_are_summed_in_float32():
    logits = jnp.zeros((1, 4000, 2), jnp.bfloat16)
    total, count = distill.soft_target_loss(logits, logits, jnp.ones((1, 4000), bool))
    assert count == 4000
    assert total == pytest.approx(4000 * np.log(2), rel=1e-5)


def test_a_temperature_that_is_not_positive_is_told(example):
    student, teacher, where = example
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature: expected a positive number"):
            distill.soft_target_loss(
                single(student), single(teacher), jnp.asarray(where), temperature
            )


def test_a_target_outside_the_vocabulary_is_not_a_number(example):
    student, _, _ = example
    targets = jnp.full((3, 7), 11, jnp.int32)
    total, _ = distill.next_token_loss(single(student), targets, jnp.ones((3, 7), bool))
    assert jnp.isnan(total)


def test_targets_by_a_loop():
    random = np.random.default_rng(2)
    for _ in range(20):
        time = 9
        tokens = random.integers(1, 50, (4, time))
        segments = np.cumsum(random.random((4, time)) < 0.3, axis=1) + 1
        segments[:, random.integers(3, time + 1) :] = 0
        targets, where = distill.next_token_targets(
            jnp.asarray(tokens, jnp.int32), jnp.asarray(segments, jnp.int32)
        )
        for row in range(4):
            for place in range(time):
                last = place == time - 1
                has = not last and 0 < segments[row, place] == segments[row, place + 1]
                assert where[row, place] == has
                if has:
                    assert targets[row, place] == tokens[row, place + 1]
