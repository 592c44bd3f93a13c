"""The learned quantile: its loss, its table and its transformer head."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from matchbook.bond import algorithms, best_of_n, enumerable_lm, exact, learned_quantile, policies
from matchbook.bond.sequences import token_prompts


def test_the_loss_is_the_binary_cross_entropy():
    logits = np.array([[-2.0, 0.3], [30.0, -30.0]])
    outcome = np.array([[True, False], [True, False]])
    p = 1 / (1 + np.exp(-logits))
    expected = -np.mean(np.where(outcome, np.log(p), np.log1p(-p)))
    found = learned_quantile.quantile_loss(jnp.asarray(logits, jnp.float32), jnp.asarray(outcome))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    log_p = learned_quantile.log_quantile(jnp.array([[-100.0, 0.0]]))
    np.testing.assert_allclose(log_p, [[-100.0, np.log(0.5)]], rtol=1e-6)


def test_a_table_learns_the_true_quantiles_beside_the_policy():
    rng = np.random.default_rng(0)
    reference = jax.nn.log_softmax(jnp.asarray(0.3 * rng.standard_normal((2, 6)), jnp.float32))
    table = jnp.asarray(rng.integers(0, 4, (2, 6)), jnp.float32)
    optimizer, quantile_optimizer = algorithms.adam(0.02, 0), algorithms.adam(0.05, 0)
    step = algorithms.learned_bond_step(
        policies.TABULAR,
        learned_quantile.table_quantile,
        optimizer,
        quantile_optimizer,
        exact.table_reward(table),
        n=3,
    )
    state = algorithms.learned_bond_state(
        reference, jnp.zeros((2, 6)), optimizer, quantile_optimizer, seed=0
    )
    evaluate = exact.evaluation(policies.table_log_pmf, jnp.arange(2), reference, table, n=3)
    prompts = jnp.tile(jnp.arange(2), 256)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: step(s, prompts), state, length=250)

    before = evaluate(state)
    state, metrics = run(state)
    after = evaluate(state)
    wanted = best_of_n.quantiles(reference, table).less_equal
    np.testing.assert_allclose(jax.nn.sigmoid(state.quantile), wanted, atol=0.08)
    for name in ("exact_forward_kl", "exact_backward_kl"):
        assert float(after[name]) < 0.15 * float(before[name])
    assert float(metrics["quantile_loss"][-1]) < np.log(2)
    assert int(metrics["generations"][-1]) == 4 * len(prompts)


def test_the_head_reads_the_last_token_of_the_answer():
    """Against one answer at a time without padding, with and without a stop in it."""
    graph, trunk = enumerable_lm.new_model(enumerable_lm.config(8), seed=0)
    weights = learned_quantile.head_on_trunk(trunk, 8)
    prompts, answers = token_prompts([[1, 2], [5]]), jnp.array([[[4, 7, 3], [1, 1, 7]]] * 2)
    model = jax.jit(learned_quantile.transformer_quantile(graph, (7,)))
    np.testing.assert_array_equal(model(weights, prompts, answers), 0)  # a half, before training

    kernel = np.random.default_rng(0).standard_normal(8)
    weights["head"] = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.float32(0.5)}
    found = np.asarray(model(weights, prompts, answers))
    alone = jax.jit(lambda tokens: nnx.merge(graph, trunk).hidden(tokens))
    for row, prompt in enumerate(([1, 2], [5])):
        for sample, answer in enumerate(([4, 7], [1, 1, 7])):
            text = prompt + answer
            padded = jnp.array([text + [0] * (6 - len(text))])  # behind the answer: not seen
            hidden = alone(padded)[0, len(text) - 1]
            expected = np.asarray(hidden, float) @ kernel + 0.5
            assert found[row, sample] == pytest.approx(expected, abs=1e-4)


def test_settings_are_checked():
    common = policies.TABULAR, learned_quantile.table_quantile, optax.sgd(1.0), optax.sgd(1.0)
    with pytest.raises(ValueError, match="n:"):
        algorithms.learned_bond_step(*common, lambda p, a: a, n=1)
