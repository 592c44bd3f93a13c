"""Merging: closed forms, and the angles of WARP by hand in float64."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from matchbook import distill
from matchbook.distill import merging

SHARES = [0.0, 0.2, 0.5, 0.9, 1.0]


def random_model(seed, dtype=np.float32):
    """Shaped like a Transformer's weights, two pairs of layers stacked."""
    random = np.random.default_rng(seed)

    def tensor(*shape):
        return jnp.asarray(random.normal(size=shape), dtype)

    def layer():
        return {"attention": {"query": tensor(2, 3, 4)}, "norm": {"scale": tensor(2, 3)}}

    return {
        "embedder": {"table": tensor(5, 3)},
        "final_norm": {"scale": tensor(3)},
        "pairs": {"local_layer": layer(), "global_layer": layer()},
    }


def layers_of(model):
    """Each layer of a model as one float64 vector: what WARP takes an angle of."""
    double = jax.tree.map(lambda x: np.asarray(x, np.float64), model)
    parts = [[double["embedder"]["table"]], [double["final_norm"]["scale"]]]
    for layer in double["pairs"].values():
        for i in range(2):
            parts.append([layer["attention"]["query"][i], layer["norm"]["scale"][i]])
    return [np.concatenate([x.ravel() for x in part]) for part in parts]


def slerp_by_hand(init, first, second, share):
    d1, d2 = first - init, second - init
    angle = np.arccos(d1 @ d2 / np.linalg.norm(d1) / np.linalg.norm(d2))
    return init + (np.sin((1 - share) * angle) * d1 + np.sin(share * angle) * d2) / np.sin(angle)


def assert_close(got, expected, **tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), **tolerance)


@pytest.mark.parametrize("share", SHARES)
def test_slerp_turns_each_layer_by_its_own_angle(share):
    init, first, second = (random_model(seed) for seed in range(3))
    got = layers_of(merging.slerp(init, first, second, share))
    layers = zip(got, *(layers_of(model) for model in (init, first, second)), strict=True)
    for merged, start, one, other in layers:
        expected = slerp_by_hand(start, one, other, share)
        np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-6)


def test_stacked_layers_are_where_the_transformer_has_them():
    graph, weights = distill.new_model(distill.small_gemma(300, 64, 4, window=8), seed=0)
    assert set(weights) == {"embedder", "final_norm", merging.STACKED}
    assert set(weights[merging.STACKED]) == {"local_layer", "global_layer"}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(weights[merging.STACKED])} == {2}
    assert isinstance(nnx.merge(graph, weights), nnx.Module)


@pytest.mark.parametrize("share", SHARES)
def test_slerp_of_orthogonal_differences_is_a_quarter_circle(share):
    init = {"w": jnp.array([1.0, 2.0, 3.0])}
    first, second = ({"w": init["w"].at[i].add(2.0)} for i in (0, 1))
    turned = [2 * np.cos(share * np.pi / 2), 2 * np.sin(share * np.pi / 2), 0]
    got = merging.slerp(init, first, second, share)
    np.testing.assert_allclose(got["w"] - init["w"], turned, atol=1e-6)


@pytest.mark.parametrize("degrees", [0.01, 1, 60, 120, 179])
def test_slerp_keeps_the_norm_and_moves_at_constant_speed(degrees):
    angle = np.radians(degrees)
    zero, first = {"w": jnp.zeros(2)}, {"w": jnp.array([3.0, 0.0])}
    second = {"w": jnp.asarray(3 * np.array([np.cos(angle), np.sin(angle)]), jnp.float32)}
    for share in SHARES:
        x, y = np.asarray(merging.slerp(zero, first, second, share)["w"], np.float64)
        assert np.hypot(x, y) == pytest.approx(3, rel=2e-5)
        assert np.arctan2(y, x) == pytest.approx(share * angle, rel=2e-5, abs=1e-7)


@pytest.mark.parametrize(
    "second", [[2.0, 4.0], [-1.0, -2.0], [0.0, 0.0]], ids=["same way", "opposite", "zero"]
)
def test_slerp_takes_the_line_where_there_is_no_circle(second):
    init = {"w": jnp.array([5.0, 5.0])}
    first = {"w": init["w"] + jnp.array([1.0, 2.0])}
    other = {"w": init["w"] + jnp.asarray(second)}
    for share in SHARES:
        assert_close(
            merging.slerp(init, first, other, share),
            merging.interpolate(first, other, share),
            rtol=1e-6,
        )


def test_slerp_average_adds_one_model_after_the_other():
    init, *models = (random_model(seed) for seed in range(4))
    expected = layers_of(models[0])
    for count, model in enumerate(models[1:], start=2):
        layers = zip(layers_of(init), expected, layers_of(model), strict=True)
        expected = [slerp_by_hand(*vectors, 1 / count) for vectors in layers]
    for got, wanted in zip(layers_of(merging.slerp_average(init, models)), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    # Three orthogonal differences of one norm keep it: cos^2 + sin^2 on each circle.
    zero = {"w": jnp.zeros(3)}
    axes = [{"w": axis} for axis in jnp.eye(3)]
    assert jnp.linalg.norm(merging.slerp_average(zero, axes)["w"]) == pytest.approx(1, rel=1e-6)
    assert_close(merging.slerp_average(init, models[:1]), models[0])


def test_average_is_the_mean():
    models = [random_model(seed) for seed in range(5)]
    mean = jax.tree.map(
        lambda *leaves: np.mean([np.asarray(x, np.float64) for x in leaves], 0).astype(np.float32),
        *models,
    )
    assert_close(merging.average(models), mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("share", SHARES)
def test_interpolation_is_the_line_and_exact_at_its_ends(share):
    start, end = random_model(0), random_model(1)
    line = jax.tree.map(
        lambda a, b: ((1 - share) * np.asarray(a, float) + share * np.asarray(b, float)).astype(
            np.float32
        ),
        start,
        end,
    )
    exact = {0.0: start, 1.0: end}.get(share)
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-6, "atol": 1e-6}
    assert_close(merging.interpolate(start, end, share), exact or line, **tolerance)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_equal_models_are_a_fixed_point(dtype):
    model, init = random_model(0, dtype), random_model(1, dtype)
    assert_close(merging.average([model] * 3), model, rtol=0, atol=0)
    assert_close(merging.interpolate(model, model, 0.3), model, rtol=0, atol=0)
    rounding = 2e-6 if dtype == np.float32 else 1e-2
    for merged in (
        merging.slerp(init, model, model, 0.3),
        merging.slerp_average(init, [model] * 3),
        merging.slerp(model, model, model, 0.5),
    ):
        assert_close(
            jax.tree.map(lambda x: x.astype(jnp.float32), merged),
            jax.tree.map(lambda x: x.astype(jnp.float32), model),
            rtol=rounding,
            atol=rounding,
        )


def test_moving_average_is_the_weighted_sum_and_starts_without_bias():
    rate, models = 0.1, [random_model(seed) for seed in range(6)]
    state = merging.moving_average_start(models[0])
    assert_close(state, models[0])
    for model in models[1:]:
        state = merging.moving_average(state, model, rate)
    # The start keeps 0.9^5, model i of 5 gets 0.1 * 0.9^(5 - i): together 1.
    shares = [0.9**5, *(rate * 0.9 ** (5 - i) for i in range(1, 6))]
    assert sum(shares) == pytest.approx(1)
    expected = jax.tree.map(
        lambda *leaves: sum(
            s * np.asarray(x, np.float64) for s, x in zip(shares, leaves, strict=True)
        ).astype(np.float32),
        *models,
    )
    assert_close(state, expected, rtol=1e-5, atol=1e-6)


class Weighted(NamedTuple):
    weights: dict
    count: int


def test_a_step_with_an_average_is_the_same_step_and_keeps_the_weighted_sum():
    models, rate = [random_model(seed) for seed in range(5)], 0.3

    def step(state, batch):
        return Weighted(batch, state.count + 1), {"count": state.count}

    averaged = merging.averaged_step(step, rate)
    state = merging.averaged_state(Weighted(models[0], 0))
    for number, model in enumerate(models[1:]):
        state, metrics = averaged(state, model)
        assert metrics == {"count": number}
    assert state.inner.count == 4
    jax.tree.map(np.testing.assert_array_equal, state.inner.weights, models[-1])
    shares = [0.7**4, *(rate * 0.7**back for back in (3, 2, 1, 0))]
    assert sum(shares) == pytest.approx(1.0)
    expected = jax.tree.map(lambda *leaves: sum(map(np.multiply, shares, leaves)), *models)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.weights, expected)
    again = merging.averaged_step(step, rate)
    assert jax.tree.structure(again) == jax.tree.structure(averaged)  # so nothing compiles twice
    with pytest.raises(ValueError, match=r"rate: expected a number in \[0, 1\], got 2"):
        merging.averaged_step(step, 2)


def test_moving_average_of_bfloat16_weights_still_moves():
    weights = {"w": jnp.ones(1, jnp.bfloat16)}
    state = merging.moving_average_start(weights)
    target = {"w": jnp.full(1, 1.25, jnp.bfloat16)}
    update = jax.jit(lambda state: merging.moving_average(state, target, 0.01))
    for _ in range(100):
        state = update(state)  # steps of 0.0025 and less; bfloat16 has steps of 0.0078 here
    assert float(state["w"][0]) == pytest.approx(1.25 - 0.25 * 0.99**100, rel=1e-5)


def test_refusals():
    model = random_model(0)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"share: expected a number in \[0, 1\]"):
            merging.interpolate(model, model, share)
        with pytest.raises(ValueError, match=r"share: expected a number in \[0, 1\]"):
            merging.slerp(model, model, model, share)
    for merge in (merging.average, lambda models: merging.slerp_average(model, models)):
        with pytest.raises(ValueError, match="expected at least one model"):
            merge([])
    for other in ({"w": jnp.zeros(2)}, model | {"final_norm": {"scale": jnp.zeros(4)}}):
        with pytest.raises(ValueError, match="models of one structure"):
            merging.average([model, other])
        with pytest.raises(ValueError, match="models of one structure"):
            merging.slerp(model, model, other, 0.5)
