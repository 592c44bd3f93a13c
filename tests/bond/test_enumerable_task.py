"""The shared task: what is listed is the model's own, and evaluation is that of `exact`."""

import itertools

import jax
import numpy as np
import pytest

from matchbook import lab
from matchbook.bond import algorithms, continuous, enumerable_lm, enumerable_task, exact

WIDTH = 8


@pytest.fixture(scope="module")
def pretrained():
    step, state = enumerable_task.pretraining(WIDTH)
    batches = itertools.repeat(enumerable_lm.prompts(4))
    return lab.fit(step, state, batches, num_steps=60, log_every=20)


def test_pretraining_learns_the_markov_source(pretrained):
    _, history = pretrained
    source = np.asarray(enumerable_lm.markov_log_pmf(enumerable_lm.markov_transitions(0)), float)
    entropy = -np.mean(np.sum(np.exp(source) * source, axis=1))
    losses = history["loss"][1]
    assert entropy - 0.2 < losses[-1] < losses[0] - 1
    assert losses[-1] < entropy + 0.7


def test_the_task_lists_the_reference_and_its_rewards(pretrained):
    state, _ = pretrained
    task = enumerable_task.task(WIDTH, state.weights, reward_seed=3)
    prompts = enumerable_lm.prompts()
    np.testing.assert_allclose(
        task.reference, jax.jit(task.log_pmf)(state.weights, prompts), atol=1e-5
    )
    np.testing.assert_array_equal(task.rewards, enumerable_lm.reward_table(3))
    start = task.state(algorithms.adam(0.1, 0), seed=0)
    numbers = task.evaluation(n=8)(start)
    # 32,768 answers are almost a continuum.
    assert float(numbers["exact_kl_to_reference"]) == pytest.approx(0, abs=1e-5)
    found = float(numbers["exact_forward_kl"])
    assert found == pytest.approx(float(continuous.kl_to_reference(8)), abs=5e-3)
    # Sorted once or every time: the same numbers.
    target = exact.best_of_n.log_pmf(task.reference, task.rewards, 8)
    again = exact.numbers(task.reference, target, task.reference, task.rewards)
    for name, value in numbers.items():
        assert float(again[name]) == pytest.approx(float(value), abs=1e-5)
    line = task.best_of_n(np.array([1.0, 8.0]))
    assert line.kl == pytest.approx([0, found], abs=1e-4)
    assert line.reward[0] == pytest.approx(float(numbers["exact_reward"]), abs=1e-4)
    assert line.log_quantile == pytest.approx([-1, -1 / 8], abs=5e-3)
