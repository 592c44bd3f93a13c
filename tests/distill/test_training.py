"""Training steps: packing does not matter, clipping clips, and both losses teach."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from matchbook import corpus, distill
from matchbook.corpus import Encoded, Rows
from matchbook.gemma import Gemma2Config

CONFIG = Gemma2Config(
    vocab_size=23,
    embed_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=32,
    sliding_window=4,
)


ROWS, TIME = 6, 32  # one shape for all batches, so that each step is compiled once


@pytest.fixture(scope="module")
def model():
    return distill.new_model(CONFIG, seed=0)


@pytest.fixture(scope="module")
def teacher_weights():
    return distill.new_model(CONFIG, seed=7)[1]


@pytest.fixture(scope="module")
def steps(model, teacher_weights):
    """Both arms, compiled, by gradient descent of rate 1: the weights change by the gradient."""
    graph, _ = model
    teacher = distill.frozen_teacher(graph, teacher_weights)
    return {name: jax.jit(step) for name, step in makers(graph, optax.sgd(1.0), teacher).items()}


def state_of(weights) -> distill.TrainState:
    return distill.train_state(weights, optax.sgd(1.0))


def documents() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(1, 23, length).astype(np.int32) for length in (5, 2, 9, 3, 7, 6)]


def in_rows(groups: list[list[np.ndarray]]) -> Rows:
    """Each group of documents in a row of its own, the rest of the rows empty."""
    rows = [Rows(*(np.zeros((ROWS - len(groups), TIME), np.int32) for _ in range(3)))]
    for group in groups:
        encoded = Encoded(np.concatenate(group), np.array([len(ids) for ids in group], np.int64))
        rows.append(corpus.pack(encoded, TIME))
    return Rows(*(np.concatenate(values) for values in zip(*rows, strict=True)))


def as_arrays(rows: Rows) -> Rows:
    return Rows(*(jnp.asarray(values) for values in rows))


def makers(graph, optimizer, teacher):
    return {
        "scratch": distill.pretrain_step(graph, optimizer),
        "distilled": distill.distill_step(graph, optimizer, teacher),
    }


@pytest.mark.parametrize("arm", ["scratch", "distilled"])
def test_a_step_does_not_depend_on_padding_or_packing(model, steps, arm):
    a, b, c, d, e, f = documents()
    layouts = {
        "apart": [[a], [b], [c], [d], [e], [f]],
        "packed": [[a, b], [c, d], [e, f]],
        "together": [[f, e, d, c, b, a], [a[:1]], [b[:1], c[:1]]],  # one token has no target
    }
    state = state_of(model[1])
    results = {name: steps[arm](state, as_arrays(in_rows(rows))) for name, rows in layouts.items()}
    expected, metrics = results.pop("apart")
    for found, other in results.values():
        assert other["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-6)
        for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, two, atol=2e-6)


@pytest.mark.parametrize("arm", ["scratch", "distilled"])
def test_a_batch_without_targets_changes_nothing(model, steps, arm):
    state, metrics = steps[arm](state_of(model[1]), as_arrays(in_rows([])))
    assert metrics["loss"] == 0
    jax.tree.map(np.testing.assert_array_equal, state.weights, model[1])


def test_the_distilled_gradient_vanishes_at_the_teacher(model, teacher_weights, steps):
    batch = as_arrays(in_rows([documents()]))
    assert steps["distilled"](state_of(model[1]), batch)[1]["gradient_norm"] > 0.1
    assert steps["distilled"](state_of(teacher_weights), batch)[1]["gradient_norm"] < 1e-6
    assert steps["scratch"](state_of(teacher_weights), batch)[1]["gradient_norm"] > 0.1


def test_the_state_holds_the_student_alone(model, teacher_weights):
    graph, weights = model
    optimizer = distill.adamw(1e-3, 10)
    state = distill.train_state(weights, optimizer)
    step = distill.distill_step(graph, optimizer, distill.frozen_teacher(graph, teacher_weights))
    after, _ = jax.eval_shape(step, state, as_arrays(in_rows([documents()])))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    size = sum(leaf.size for leaf in jax.tree.leaves(weights))
    # The weights, two moments, and the two counters of Adam and of the schedule.
    assert sum(leaf.size for leaf in jax.tree.leaves(after)) == 3 * size + 2


def test_equal_arguments_give_equal_steps(model, teacher_weights):
    graph, _ = model
    again, _ = distill.new_model(CONFIG, seed=1)
    teacher = distill.frozen_teacher(graph, teacher_weights)
    one = makers(graph, distill.adamw(1e-3, 10), teacher)
    two = makers(again, distill.adamw(1e-3, 10), teacher)
    assert one["scratch"].func is two["scratch"].func
    assert one["scratch"].args == two["scratch"].args
    assert hash(one["scratch"].args) == hash(two["scratch"].args)
    structures = {jax.tree.structure(arms["distilled"]) for arms in (one, two)}
    assert len(structures) == 1  # the teacher's weights are its leaves
    assert len(jax.tree.leaves(one["distilled"])) == len(jax.tree.leaves(teacher_weights))


def test_gradients_are_clipped_to_the_norm_that_was_asked_for():
    weights = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    optimizer = distill.adamw(1e-3, 10, clip_norm=0.5)
    for scale in (0.01, 1.0, 1e4):
        gradients = jax.tree.map(lambda leaf, scale=scale: scale * leaf, weights)
        _, state = optimizer.update(gradients, optimizer.init(weights), weights)
        # After one step Adam's first moment is a tenth of the gradient that reached it.
        reached = optax.tree.norm(optax.tree.get(state, "mu")) / 0.1
        assert reached == pytest.approx(min(0.5, scale * 7**0.5), rel=1e-5)


def test_the_schedule_warms_up_and_decays_to_a_tenth():
    weights = {"a": jnp.ones(())}
    optimizer = distill.adamw(1e-2, 100, warmup=0.1, weight_decay=0.0)
    state, sizes = optimizer.init(weights), []
    for _ in range(101):
        updates, state = optimizer.update({"a": jnp.ones(())}, state, weights)
        sizes.append(-float(updates["a"]))  # a constant gradient: Adam moves by the learning rate
    np.testing.assert_allclose(sizes[:11], np.arange(11) * 1e-3, rtol=1e-4)
    assert sizes[10] == max(sizes)
    assert sizes[55] == pytest.approx(1e-2 * 0.55, rel=1e-3)
    assert sizes[100] == pytest.approx(1e-3, rel=1e-4)


def test_norm_scales_do_not_decay(model):
    _, weights = model
    weights = jax.tree.map(jnp.ones_like, weights)
    optimizer = distill.adamw(1.0, 10, warmup=0.1, weight_decay=0.5)
    update = jax.jit(optimizer.update)
    state, zeros = optimizer.init(weights), jax.tree.map(jnp.zeros_like, weights)
    _, state = update(zeros, state, weights)  # the first step has learning rate 0
    updates, _ = update(zeros, state, weights)
    for path, change in jax.tree_util.tree_leaves_with_path(updates):
        is_scale = "'scale'" in jax.tree_util.keystr(path)
        np.testing.assert_allclose(change, 0.0 if is_scale else -0.5, rtol=1e-6)


def test_evaluation_is_the_mean_over_all_targets(model, steps):
    graph, weights = model
    rows = in_rows([[ids] for ids in documents()])
    _, metrics = steps["scratch"](state_of(weights), as_arrays(rows))
    for batch_size in (4, 6):
        loss = distill.evaluate(graph, rows, batch_size)(state_of(weights))["validation_loss"]
        assert loss == pytest.approx(float(metrics["loss"]), rel=1e-6)
    with pytest.raises(ValueError, match="at least one row to evaluate on"):
        distill.evaluate(graph, corpus.take(rows, slice(0, 0)), 4)


class Markov(NamedTuple):
    """A language with known conditionals: the next token depends on this one alone."""

    transitions: np.ndarray

    def rows(self, seed: int) -> Rows:
        random = np.random.default_rng(seed)
        tokens = np.zeros((32, 24), np.int32)
        for place in range(1, 24):
            chances = self.transitions[tokens[:, place - 1]].cumsum(axis=1)
            tokens[:, place] = (random.random((32, 1)) > chances).sum(axis=1)
        positions = np.tile(np.arange(24, dtype=np.int32), (32, 1))
        return as_arrays(Rows(tokens, positions, np.ones_like(tokens)))

    def oracle(self, batch: Rows) -> jax.Array:
        return jnp.log(jnp.asarray(self.transitions, jnp.float32))[batch.tokens]


def test_both_steps_learn_a_known_language_and_a_perfect_teacher_teaches_faster():
    random = np.random.default_rng(0)
    language = Markov(random.dirichlet(np.full(23, 0.3), 23) * 0.98 + 0.02 / 23)
    stationary = np.linalg.matrix_power(language.transitions, 200)[0]
    floor = -(stationary[:, None] * language.transitions * np.log(language.transitions)).sum()
    test_rows, excess = language.rows(seed=10**6), {}
    for arm in ("scratch", "distilled"):
        graph, weights = distill.new_model(CONFIG, seed=0)
        optimizer = optax.sgd(0.3, momentum=0.9)  # compiles faster than Adam
        step = jax.jit(makers(graph, optimizer, language.oracle)[arm])
        state = distill.train_state(weights, optimizer)
        for index in range(60):
            state, _ = step(state, language.rows(seed=index))
        loss = distill.evaluate(graph, test_rows, 32)(state)["validation_loss"]
        excess[arm] = float(loss) - floor
    # The loss at the start is about log(23) - floor = 1.3 nats above the floor.
    assert excess["scratch"] < 0.35
    assert excess["distilled"] < 0.8 * excess["scratch"]
