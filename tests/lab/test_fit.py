"""The loop against a plain Python one: numbers, windows, stops, sources, tracing, donation."""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from matchbook import lab
from matchbook.lab.batches import Batches

OPTIMIZER = optax.sgd(0.05, momentum=0.9)  # (optax.adam needs dtype promotion)


class State(NamedTuple):
    weights: dict
    optimizer: optax.OptState
    key: jax.Array
    average: jax.Array  # bfloat16


def _initial():
    weights = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    average = jnp.zeros((), jnp.bfloat16)
    return State(weights, OPTIMIZER.init(weights), jax.random.key(1), average)


def _step(state, batch):
    key, noise = jax.random.split(state.key)

    def loss_of(weights):
        inputs = batch["x"] + 0.01 * jax.random.normal(noise, batch["x"].shape)
        errors = inputs @ weights["w"] + weights["b"] - batch["y"]
        return jnp.mean(errors**2)

    loss, gradient = jax.value_and_grad(loss_of)(state.weights)
    updates, optimizer = OPTIMIZER.update(gradient, state.optimizer)
    weights = optax.apply_updates(state.weights, updates)
    average = 0.5 * state.average + 0.5 * loss.astype(jnp.bfloat16)
    metrics = {"loss": loss, "size": jnp.sum(weights["w"] ** 2), "average": average}
    return State(weights, optimizer, key, average), metrics


def _batches(seed=0):
    rng = np.random.default_rng(seed)
    while True:
        x = rng.normal(size=(8, 3)).astype(np.float32)
        yield {"x": x, "y": x @ np.array([1, -2, 3], np.float32)}


def _looped(num_steps):
    """The reference: one jitted step at a time."""
    step, state, logged = jax.jit(_step), _initial(), []
    for batch in itertools.islice(_batches(), num_steps):
        state, metrics = step(state, batch)
        logged.append({name: float(value) for name, value in metrics.items()})
    return state, logged


def _leaves(state):
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(state)
    ]


def tolerance(array):
    """Compilations may fuse differently: the last bits, of bfloat16 too."""
    return {"rtol": 1e-2} if array.dtype == jnp.bfloat16 else {"rtol": 3e-6, "atol": 1e-7}


def _assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(_leaves(one), _leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def _assert_same_history(one, other):
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name][0], other[name][0])
        np.testing.assert_array_equal(one[name][1], other[name][1])


@pytest.mark.parametrize("log_every", [1, 7, 50])
def test_scanned_is_looped(log_every):
    expected, logged = _looped(37)
    state, history = lab.fit(_step, _initial(), _batches(), num_steps=37, log_every=log_every)
    for a, b in zip(_leaves(state), _leaves(expected), strict=True):
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), **tolerance(a))
    ends = [*range(log_every, 37, log_every), 37]
    for name in ("loss", "size"):
        steps, values = history[name]
        assert steps.tolist() == ends
        means = [
            np.mean([metrics[name] for metrics in logged[start:end]])
            for start, end in zip([0, *ends], ends, strict=False)
        ]
        np.testing.assert_allclose(values, means, rtol=1e-5)


@pytest.mark.parametrize("eval_every", [None, 1, 4, 10, 100])
def test_where_evaluations_fall_changes_no_bit(eval_every):
    plain = lab.fit(_step, _initial(), _batches(), num_steps=25, log_every=10)
    state, history = lab.fit(
        _step,
        _initial(),
        _batches(),
        num_steps=25,
        log_every=10,
        evaluate=lambda state: {"norm": jnp.sum(jnp.abs(state.weights["w"]))},
        eval_every=eval_every,
    )
    _assert_same(state, plain[0])
    steps, values = history.pop("norm")
    assert steps.tolist() == [0, *range(eval_every or 25, 25, eval_every or 25), 25]
    assert values[0] == 0.0
    assert values[-1] == float(jnp.sum(jnp.abs(state.weights["w"])))
    _assert_same_history(history, plain[1])


def test_a_function_of_the_state_is_asked_before_every_update():
    seen = []

    def batches(state):
        seen.append(int(state))
        return {"add": np.int32(2), "base": state}

    def step(state, batch):
        return state + batch["add"], {"base": batch["base"]}

    state, history = lab.fit(step, 5, batches, num_steps=7, log_every=3)
    assert seen == [5, 7, 9, 11, 13, 15, 17]
    assert int(state) == 19
    assert history["base"][0].tolist() == [3, 6, 7]
    assert history["base"][1].tolist() == [7, 13, 17]


def test_both_kinds_of_source_give_the_same():
    from_iterator = lab.fit(_step, _initial(), _batches(), num_steps=13)
    stream = _batches()
    from_function = lab.fit(_step, _initial(), lambda state: next(stream), num_steps=13)
    for a, b in zip(_leaves(from_iterator[0]), _leaves(from_function[0]), strict=True):
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), **tolerance(a))


def test_a_step_may_make_its_own_data():
    def step(key, batch):
        key, sub = jax.random.split(key)
        return key, {"x": jax.random.uniform(sub)}

    key, history = lab.fit(
        step, jax.random.key(0), itertools.repeat(()), num_steps=200, log_every=200
    )
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert abs(history["x"][1].item() - 0.5) < 0.1


def test_the_batches_of_a_loop_are_drawn_once_each_and_no_further():
    stream = iter(range(100))
    state, _ = lab.fit(
        lambda s, b: (s + b, {}), 0, (np.int32(i) for i in stream), num_steps=37, log_every=10
    )
    assert int(state) == sum(range(37))
    assert next(stream) == 37


def test_the_step_is_traced_once_for_all_chunks_and_for_later_loops():
    traces = []

    def step(state, batch, scale):
        traces.append(1)
        return state + scale * batch, {"state": state}

    def run(**settings):
        ones = itertools.repeat(np.float32(1))
        bound = functools.partial(step, scale=2.0)
        return lab.fit(bound, 0.0, ones, num_steps=25, **settings)[0]

    assert run() == run() == run(evaluate=lambda s: {"e": s}, eval_every=4) == 50.0
    assert len(traces) == 1
    assert lab.fit(functools.partial(step, scale=3.0), 0.0, itertools.repeat(np.float32(1)),
                   num_steps=1)[0] == 3.0  # fmt: skip
    assert len(traces) == 2


def test_the_callers_arrays_stay_and_the_loops_own_are_donated():
    initial, seen = {"w": jnp.ones(1000), "same": jnp.ones(2)}, []
    initial["alias"] = initial["same"]

    def batches(state):
        seen.append(state["w"])
        return ()

    def step(state, batch):
        return jax.tree.map(lambda x: x + 1, state), {}

    state, _ = lab.fit(step, initial, batches, num_steps=3)
    assert not initial["w"].is_deleted()
    assert float(initial["alias"][0]) == 1.0
    assert [w.is_deleted() for w in seen] == [True] * 3
    assert not state["w"].is_deleted()
    assert float(state["w"][0]) == 4.0


@pytest.mark.parametrize("kind", ["iterator", "function"])
@pytest.mark.parametrize(("bad", "value"), [(1, math.nan), (10, math.inf), (17, -math.inf)])
def test_a_metric_that_is_not_finite_names_its_very_step(kind, bad, value):
    def step(count, batch):
        count = count + 1
        off = jnp.where(count >= bad, value, 0.0)
        return count, {"fine": jnp.float32(count), "loss": off}

    batches = itertools.repeat(()) if kind == "iterator" else lambda state: ()
    with pytest.raises(lab.NonFiniteError, match=f"'loss' is {value} at step {bad}") as caught:
        lab.fit(step, 0, batches, num_steps=40, log_every=10)
    assert (caught.value.step, caught.value.metric) == (bad, "loss")


def test_an_evaluation_that_is_not_finite_stops_too():
    with pytest.raises(lab.NonFiniteError, match="'gap' is nan at step 4"):
        lab.fit(
            lambda s, b: (s + 1, {}),
            0,
            itertools.repeat(()),
            num_steps=9,
            evaluate=lambda s: {"gap": math.nan if s >= 4 else 0.0},
            eval_every=2,
        )


def test_module_state_trains():
    graph, state = nnx.split(nnx.Linear(3, 1, rngs=nnx.Rngs(0)))

    def step(state, batch):
        def loss_of(state):
            return jnp.mean((nnx.merge(graph, state)(batch["x"])[:, 0] - batch["y"]) ** 2)

        loss, gradient = jax.value_and_grad(loss_of)(state)
        return jax.tree.map(lambda p, g: p - 0.1 * g, state, gradient), {"loss": loss}

    state, history = lab.fit(step, state, _batches(), num_steps=150)
    assert history["loss"][1][-1] < 1e-4
    kernel = nnx.merge(graph, state).kernel[...]
    np.testing.assert_allclose(kernel[:, 0], [1, -2, 3], atol=0.01)


def test_nothing_to_do_evaluates_the_initial_state():
    state, history = lab.fit(
        lambda s, b: (s, {}), 3.0, iter([]), num_steps=0, evaluate=lambda s: {"x": s}
    )
    assert float(state) == 3.0
    assert history["x"][1].tolist() == [3.0]


def _misfit(step=lambda s, b: (s, {}), state=0.0, batches=None, **settings):
    batches = itertools.repeat(()) if batches is None else batches
    return lab.fit(step, state, batches, **{"num_steps": 3, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": lambda s, b: s}, r"returns \(state, metrics\)"),
        ({"step": lambda s, b: ({"x": s}, {})}, "structure"),
        ({"step": lambda s, b: (jnp.zeros(2), {})}, r"float32\[\], became float32\[2\]"),
        ({"step": lambda s, b: (jnp.int32(1), {})}, "became int32"),
        ({"step": lambda s, b: (s, s)}, "metrics as a dict"),
        ({"step": lambda s, b: (s, {"m": jnp.zeros(2)})}, "'m' is a scalar"),
        ({"state": {"a": [1.0, "text"]}}, r"state\['a'\]\[1\] is a str"),
        ({"batches": iter([np.zeros(2)])}, "ended after 1 updates"),
        ({"batches": iter([np.zeros(2), np.zeros(3), np.zeros(2)])}, "updates 1 to 3 differ"),
        ({"num_steps": -1}, "num_steps"),
        ({"log_every": 0}, "log_every is at least 1; got 0"),
        ({"eval_every": 2}, "without evaluate"),
        ({"checkpoint_every": 2}, r"within experiment.run or artifact"),
        ({"name": "a/b"}, "'a/b'"),
        ({"evaluate": lambda s: {"x": jnp.zeros(2)}}, r"'x' has shape \(2,\)"),
        (
            {"step": lambda s, b: (s, {"x": s}), "evaluate": lambda s: {"x": s}},
            "both return 'x'",
        ),
    ],
)
def test_misuse_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        _misfit(**settings)


def test_batches_are_an_iterator_or_a_function():
    with pytest.raises(ValueError, match="list: wrap it in iter"):
        Batches([1, 2])
