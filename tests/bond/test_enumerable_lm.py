"""The enumerable language model: all 32,768 answers, and the trainer for text run on it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from matchbook import lab
from matchbook.bond import algorithms, best_of_n, enumerable_lm, exact, policies, sequences

ALL = 8**5


@pytest.fixture(scope="module")
def model():
    """A small model, its compiled exact distribution, and that for all 8 prompts."""
    graph, weights = enumerable_lm.new_model(enumerable_lm.config(16), seed=0)
    log_pmf = jax.jit(enumerable_lm.log_pmf(graph))
    return graph, weights, log_pmf(weights, enumerable_lm.prompts())


def test_all_answers_in_the_order_of_their_number():
    found = np.asarray(enumerable_lm.all_answers(3, 4))
    assert found.tolist() == [list(t) for t in itertools.product(range(3), repeat=4)]
    answers = enumerable_lm.all_answers()
    assert answers.shape == (ALL, 5)
    np.testing.assert_array_equal(enumerable_lm.answer_index(answers), np.arange(ALL))


def test_probabilities_of_all_answers_sum_to_one_and_are_the_policys(model):
    graph, weights, log_probs = model
    total = logsumexp(np.asarray(log_probs, float), axis=1)
    np.testing.assert_allclose(total, 0, atol=2e-6)
    assert np.asarray(log_probs).std() > 0.1  # not a uniform distribution
    policy = sequences.transformer_policy(graph, enumerable_lm.LENGTH)
    index = np.random.default_rng(0).integers(0, ALL, (8, 6))
    answers = enumerable_lm.all_answers()[index]
    found = jax.jit(policy.log_prob)(weights, enumerable_lm.prompts(), answers)
    np.testing.assert_allclose(
        found, np.take_along_axis(np.asarray(log_probs), index, axis=1), atol=2e-5
    )


def test_best_of_n_and_divergences_against_numpy(model):
    """In float64, by sorting: no formula of Theorem 1, the power of a distribution function."""
    _, _, log_probs = model
    table = np.asarray(enumerable_lm.reward_table(seed=1), float)
    rewards = np.argsort(np.argsort(table, axis=1), axis=1).astype(float)  # ranks: no ties
    n, reference = 4, np.asarray(log_probs, float)
    reference -= logsumexp(reference, axis=1, keepdims=True)
    found = best_of_n.log_pmf(log_probs, jnp.asarray(rewards, jnp.float32), n)
    numbers = exact.evaluation(
        lambda weights, prompts: weights,
        enumerable_lm.prompts(),
        log_probs,
        jnp.asarray(rewards, jnp.float32),
        n=n,
    )(algorithms.PolicyState(log_probs, None, None, jax.random.key(0), jnp.int32(0)))
    forward, backward, quantile = [], [], []
    for prompt in range(8):
        order = np.argsort(rewards[prompt])
        below = np.concatenate([[0.0], np.cumsum(np.exp(reference[prompt][order]))])
        best = np.zeros(ALL)
        best[order] = np.diff(below**n)
        np.testing.assert_allclose(np.exp(found[prompt]), best, rtol=2e-3, atol=1e-9)
        log_ratio = np.log(best) - reference[prompt]
        forward.append(np.sum(best * log_ratio))
        backward.append(-np.sum(np.exp(reference[prompt]) * log_ratio))
        quantile.append(np.sum(np.exp(reference[prompt][order]) * np.log(below[1:])))
    # The worst answers lose precision in float32, and weigh nothing in these means.
    assert float(numbers["exact_forward_kl"]) == pytest.approx(np.mean(forward), rel=1e-3)
    assert float(numbers["exact_backward_kl"]) == pytest.approx(np.mean(backward), rel=1e-2)
    assert float(numbers["exact_log_quantile"]) == pytest.approx(np.mean(quantile), rel=1e-3)
    assert float(numbers["exact_win_rate"]) == pytest.approx(0.5, abs=1e-4)
    assert float(numbers["exact_kl_to_reference"]) == pytest.approx(0, abs=1e-5)


def test_the_reward_table_has_skill_and_luck():
    table = np.asarray(enumerable_lm.reward_table(seed=0), float)
    assert table.shape == (8, ALL)
    np.testing.assert_allclose(table.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(table.var(axis=1), 1, atol=1e-5)
    # The share of the variance that a table of neighbouring pairs explains: most, not all.
    answers = np.asarray(enumerable_lm.all_answers())
    columns = [8 * answers[:, i] + answers[:, i + 1] for i in range(4)]
    design = np.zeros((ALL, 4 * 64), np.float32)
    for i, column in enumerate(columns):
        design[np.arange(ALL), 64 * i + column] = 1
    gram, moments = design.T @ design, design.T @ table[0]
    fitted = design @ np.linalg.lstsq(gram, moments, rcond=1e-6)[0]
    explained = 1 - np.var(table[0] - fitted)
    assert 0.3 < explained < 0.7
    reward = enumerable_lm.table_reward(jnp.asarray(table, jnp.float32))
    prompts = sequences.token_prompts([[6], [2]])
    picked = jnp.asarray(answers[[5, 70, 31]])[None].repeat(2, axis=0)
    np.testing.assert_allclose(reward(prompts, picked), table[[6, 2]][:, [5, 70, 31]], rtol=1e-5)


def test_the_markov_source_is_what_its_log_pmf_says():
    transitions = enumerable_lm.markov_transitions(seed=0)
    log_pmf = np.asarray(enumerable_lm.markov_log_pmf(transitions), float)
    np.testing.assert_allclose(logsumexp(log_pmf, axis=1), 0, atol=1e-5)
    source = enumerable_lm.markov_source(transitions)
    answers = source(enumerable_lm.prompts(), jax.random.key(0), 3000)
    indices = np.asarray(enumerable_lm.answer_index(answers))
    for prompt in range(8):
        found = log_pmf[prompt][indices[prompt]]
        entropy = -np.sum(np.exp(log_pmf[prompt]) * log_pmf[prompt])
        assert abs(-found.mean() - entropy) < 4 * found.std() / np.sqrt(3000)


def test_jbond_on_samples_moves_the_transformer_towards_best_of_n(model):
    """The trainer for text in the one loop, judged by exact numbers."""
    graph, weights, log_probs = model
    policy = sequences.transformer_policy(graph, enumerable_lm.LENGTH)
    optimizer, places = algorithms.adam(3e-3, 5), jnp.array([0, 5])
    table = enumerable_lm.reward_table(seed=0)
    step = algorithms.jbond_step(
        policy, optimizer, enumerable_lm.table_reward(table), algorithms.fixed
    )
    prompts = sequences.token_prompts([[0], [5]])
    evaluate = exact.evaluation(
        enumerable_lm.log_pmf(graph), prompts, log_probs[places], table[places], n=2
    )
    _, history = lab.fit(
        step,
        algorithms.policy_state(weights, optimizer, seed=1),
        itertools.repeat(prompts.repeat(128)),
        num_steps=40,
        log_every=40,
        evaluate=evaluate,
    )
    # 32,768 answers are almost a continuum: log 2 - 1/2 and 1 - log 2 nats at the start.
    forward, backward = history["exact_forward_kl"][1], history["exact_backward_kl"][1]
    assert forward[0] == pytest.approx(np.log(2) - 0.5, abs=1e-3)
    assert backward[0] == pytest.approx(1 - np.log(2), abs=1e-3)
    assert forward[-1] < 0.8 * forward[0]
    assert backward[-1] < 0.7 * backward[0]
    assert history["exact_win_rate"][1][-1] > 0.555
    assert history["tie_rate"][1][-1] < 0.1


def test_exact_gradients_reach_best_of_n_where_the_family_contains_it():
    rng = np.random.default_rng(0)
    reference = jax.nn.log_softmax(jnp.asarray(rng.standard_normal((2, 5)), jnp.float32))
    rewards = jnp.asarray(rng.integers(0, 3, (2, 5)), jnp.float32)
    target, prompts = best_of_n.log_pmf(reference, rewards, 4), jnp.arange(2)
    optimizer = algorithms.adam(0.1, 0)
    step = exact.jeffreys_step(policies.table_log_pmf, optimizer, prompts, target, beta=0.5)
    state = algorithms.policy_state(reference, optimizer, seed=0)
    run = jax.jit(lambda s: jax.lax.scan(step, s, length=200))
    state, metrics = run(state)
    assert float(metrics["loss"][-1]) < 1e-4 < 0.05 < float(metrics["loss"][0])
    np.testing.assert_allclose(
        np.exp(policies.table_log_pmf(state.weights, prompts)), np.exp(target), atol=5e-3
    )
