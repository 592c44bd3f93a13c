"""Divergences against scipy, finite differences, closed forms and samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from matchbook import divergences
from matchbook.divergences import (
    backward_kl,
    by_name,
    cross_entropy,
    forward_kl,
    jeffreys,
    jensen_shannon,
    sum_and_count,
)

EACH = {
    "forward": forward_kl,
    "backward": backward_kl,
    "jeffreys": lambda t, m, where=None: jeffreys(t, m, where, beta=0.3),
    "jensen_shannon": lambda t, m, where=None: jensen_shannon(t, m, where, beta=0.3),
    "cross_entropy": cross_entropy,
}


def reference(name, target, model, where=None):
    """From the definition, in probability space and float64."""
    target, model = np.exp(target), np.exp(model)
    where = np.ones(target.shape, bool) if where is None else np.broadcast_to(where, target.shape)
    if name == "cross_entropy":
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(target > 0, -target * np.log(model), 0.0)
        return np.sum(terms, -1, where=where)
    if name == "jensen_shannon":
        mixture = 0.3 * target + 0.7 * model
        terms = 0.3 * rel_entr(target, mixture) + 0.7 * rel_entr(model, mixture)
        return np.sum(terms, -1, where=where)
    forward = np.sum(rel_entr(target, model), -1, where=where)
    backward = np.sum(rel_entr(model, target), -1, where=where)
    weight = {"forward": 0.0, "backward": 1.0, "jeffreys": 0.3}[name]
    parts = [(1 - weight, forward), (weight, backward)]
    return sum(w * part for w, part in parts if w)


def random_log_probs(seed, shape, zeros=0.0):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal(shape)
    logits[rng.random(shape) < zeros] = -np.inf
    logits[..., 0] = 0.0  # at least one live outcome
    return log_softmax(logits, axis=-1)


def single(array):
    return jnp.asarray(array, jnp.float32)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 50)])
@pytest.mark.parametrize("zeros", [0.0, 0.3])
@pytest.mark.parametrize("masked", [None, "outcomes", "examples", "both"])
def test_equals_scipy(name, shape, zeros, masked):
    target, model = random_log_probs(0, shape, zeros), random_log_probs(1, shape, zeros)
    rng = np.random.default_rng(2)
    mask_shape = {
        None: None,
        "outcomes": (*(1 for _ in shape[:-1]), shape[-1]),
        "examples": (*shape[:-1], 1),
        "both": shape,
    }[masked]
    where = None if mask_shape is None else rng.random(mask_shape) < 0.6
    expected = reference(name, target, model, where)
    got = EACH[name](single(target), single(model), None if where is None else jnp.asarray(where))
    assert got.shape == shape[:-1]
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", EACH)
def test_gradients_equal_finite_differences(name):
    with jax.enable_x64(True):
        target, model = random_log_probs(3, (9,)), random_log_probs(4, (9,))

        def loss(target_logits, model_logits):
            return EACH[name](jax.nn.log_softmax(target_logits), jax.nn.log_softmax(model_logits))

        gradients = jax.grad(loss, argnums=(0, 1))(jnp.asarray(target), jnp.asarray(model))
        step = 1e-5
        for i in range(9):
            bump = step * np.eye(9)[i]
            for argument, gradient in enumerate(gradients):
                ends = []
                for sign in (1, -1):
                    arguments = [target, model]
                    arguments[argument] = log_softmax(arguments[argument] + sign * bump)
                    ends.append(reference(name, *arguments))
                assert gradient[i] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("zeros", [0.2, 0.6])
def test_gradients_are_never_nan(name, zeros):
    target, model = random_log_probs(5, (200, 8), zeros), random_log_probs(6, (200, 8), zeros)
    model[:20] = target[:20]  # zero and finite
    target[20], model[20] = -np.inf, -np.inf  # no mass at all
    gradients = jax.grad(lambda t, m: EACH[name](t, m).sum(), argnums=(0, 1))(
        single(target), single(model)
    )
    for gradient in gradients:
        assert bool(jnp.isfinite(gradient).all())


def test_infinite_only_where_the_other_has_no_mass():
    full, half = single(np.log([0.5, 0.5])), single(np.log([1.0, 1e-300]) * [1, np.inf])
    assert forward_kl(full, half) == jnp.inf
    assert forward_kl(half, full) == pytest.approx(np.log(2))
    assert backward_kl(half, full) == jnp.inf
    assert cross_entropy(full, half) == jnp.inf
    assert cross_entropy(half, full) == pytest.approx(np.log(2))
    # An outcome whose probability underflows in float32 (exp(-200) = 0) still makes it infinite.
    faint = jnp.array([0.0, -200.0])
    assert forward_kl(faint, half) == jnp.inf
    # The endpoints do not look at the term that they weigh by zero.
    assert jeffreys(half, full, beta=0.0) == pytest.approx(np.log(2))
    assert jeffreys(full, half, beta=1.0) == pytest.approx(np.log(2))
    assert jeffreys(full, half, beta=0.5) == jnp.inf


@pytest.mark.parametrize("name", ["forward", "backward", "jeffreys", "jensen_shannon"])
def test_zero_when_equal_and_positive_otherwise(name):
    target, model = (
        single(random_log_probs(7, (500, 20), 0.2)),
        single(random_log_probs(8, (500, 20))),
    )
    np.testing.assert_array_equal(EACH[name](target, target), 0.0)
    both = jnp.where(jnp.isneginf(target), -jnp.inf, model)
    both = jax.nn.log_softmax(both)
    assert bool((EACH[name](target, both) > 0).all())


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 1.0])
def test_jeffreys_weighs_as_in_the_paper(beta):
    # Eq. 11 of BOND with p = Bernoulli(.9) as model and q = Bernoulli(.5) as target, by hand.
    target, model = np.log([0.5, 0.5]), np.log([0.9, 0.1])
    forward = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    backward = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    got = jeffreys(single(target), single(model), beta=beta)
    assert got == pytest.approx((1 - beta) * forward + beta * backward, rel=1e-6)


@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_jensen_shannon_tends_to_the_two_kls(zeros):
    # The relative error is of order beta * chi^2: small where the ratios are moderate.
    target, model = random_log_probs(19, (50, 10)) / 4, random_log_probs(20, (50, 10)) / 4
    dead = np.random.default_rng(21).random((50, 10)) < zeros
    dead[:, 0] = False
    target, model = (single(log_softmax(np.where(dead, -np.inf, x), -1)) for x in (target, model))
    small = 1e-3
    scaled = jensen_shannon(target, model, beta=small) / small
    np.testing.assert_allclose(scaled, forward_kl(target, model), rtol=2e-2, atol=1e-4)
    scaled = jensen_shannon(target, model, beta=1 - small) / small
    np.testing.assert_allclose(scaled, backward_kl(target, model), rtol=2e-2, atol=1e-4)


def test_jensen_shannon_is_bounded_where_the_kls_are_not():
    apart = jnp.array([0.0, -jnp.inf]), jnp.array([-jnp.inf, 0.0])
    assert jensen_shannon(*apart, beta=0.5) == pytest.approx(np.log(2))
    # Ratios beyond exp(88) overflow in float32; by hand -(0.5 * log 0.5) twice.
    far = jnp.array([0.0, -200.0]), jnp.array([-200.0, 0.0])
    assert jensen_shannon(*far, beta=0.5) == pytest.approx(np.log(2))
    value, gradient = jax.value_and_grad(lambda m: jensen_shannon(far[0], m, beta=0.25))(far[1])
    assert value == pytest.approx(-0.25 * np.log(0.25) - 0.75 * np.log(0.75))
    assert bool(jnp.isfinite(gradient).all())


def test_by_name_binds_beta_and_is_the_same_function_again():
    target, model = single(random_log_probs(22, (4, 9))), single(random_log_probs(23, (4, 9)))
    for name, function in (("forward_kl", forward_kl), ("backward_kl", backward_kl)):
        assert by_name(name) is function
    assert by_name("cross_entropy") is cross_entropy
    for name, function in (("jeffreys", jeffreys), ("jensen_shannon", jensen_shannon)):
        np.testing.assert_array_equal(
            by_name(name, 0.2)(target, model), function(target, model, beta=0.2)
        )
        assert by_name(name, 0.2) is by_name(name, 0.2)
    for name, beta in (("forward_kl", 0.5), ("jeffreys", None), ("kl", None)):
        with pytest.raises(ValueError, match="divergence: expected forward_kl"):
            by_name(name, beta)


def test_cross_entropy_is_forward_kl_plus_entropy():
    target, model = random_log_probs(9, (6, 30), 0.2), random_log_probs(10, (6, 30))
    entropy = reference("cross_entropy", target, target)
    got = cross_entropy(single(target), single(model)) - forward_kl(single(target), single(model))
    np.testing.assert_allclose(got, entropy, rtol=1e-5)


def test_a_mask_keeps_garbage_out_of_values_and_gradients():
    target, model = single(random_log_probs(11, (2, 5))), single(random_log_probs(12, (2, 5)))
    where = jnp.array([[True, True, False, True, False], [False] * 5])
    for garbage in (jnp.nan, jnp.inf, -jnp.inf, 1e30):
        for function in EACH.values():
            dirty = jnp.where(where, model, garbage)
            clean, pull = jax.vjp(lambda m, f=function: f(target, m, where), dirty)
            np.testing.assert_array_equal(clean, function(target, model, where))
            assert clean[1] == 0
            (gradient,) = pull(jnp.ones(2))
            np.testing.assert_array_equal(jnp.where(where, 0, gradient), 0.0)
            assert bool(jnp.isfinite(gradient).all())


def test_a_nan_that_is_not_masked_is_not_hidden():
    target = single(np.log([0.5, 0.5]))
    assert jnp.isnan(forward_kl(target, jnp.array([jnp.nan, 0.0])))
    assert jnp.isnan(backward_kl(target, jnp.array([jnp.nan, 0.0])))


def test_half_precision_is_accumulated_in_single():
    target, model = random_log_probs(13, (4000,)), random_log_probs(14, (4000,))
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in (target, model)]
    got = forward_kl(*rounded)
    assert got.dtype == jnp.float32
    exact = reference("forward", *(np.asarray(x, np.float64) for x in rounded))
    assert got == pytest.approx(exact, rel=1e-5)
    with jax.enable_x64(True):
        assert forward_kl(jnp.asarray(target), jnp.asarray(model)).dtype == jnp.float64


def test_mean_log_ratio_of_samples_estimates_both_kls():
    target, model = random_log_probs(15, (12,)), random_log_probs(16, (12,))
    rng = np.random.default_rng(17)
    for name, source, other in (("forward", target, model), ("backward", model, target)):
        ys = rng.choice(12, size=200_000, p=np.exp(source) / np.exp(source).sum())
        ratios = (source - other)[ys]
        error = ratios.std() / np.sqrt(ratios.size)
        got = float(EACH[name](single(target), single(model)))
        assert abs(got - ratios.mean()) < 4 * error
        assert error < 0.02 * got  # sharp enough to notice the two being swapped


def test_sum_and_count_is_the_same_however_the_batch_is_cut():
    values = jnp.arange(24.0).reshape(4, 6)
    where = jnp.asarray(np.random.default_rng(18).random((4, 6)) < 0.5)
    dirty = jnp.where(where, values, jnp.nan)
    total, count = sum_and_count(dirty, where)
    parts = [sum_and_count(dirty[i : i + 1], where[i : i + 1]) for i in range(4)]
    assert total == sum(part[0] for part in parts)
    assert count == sum(part[1] for part in parts) == int(where.sum())
    assert total / count == pytest.approx(float(values[where].mean()))
    assert sum_and_count(values) == (276.0, 24.0)
    assert float(jax.grad(lambda x: sum_and_count(x, where)[0])(dirty).sum()) == count


def test_refusals():
    target = jnp.zeros((1,))
    for beta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="0 <= beta <= 1"):
            jeffreys(target, target, beta=beta)
    for beta in (0, 1, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="0 < beta < 1"):
            jensen_shannon(target, target, beta=beta)
    with pytest.raises(ValueError, match=r"one shape \[..., outcomes\]"):
        divergences._mean_over_target(jnp.zeros((2, 3)), jnp.zeros((3,)), None, lambda t, m: t)
