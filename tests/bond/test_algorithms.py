"""The algorithms as programs: anchors, state, training on a table, checks of what is given."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from matchbook import lab
from matchbook.bond import algorithms, exact, monte_carlo, policies, quantile_estimates
from matchbook.bond.reward_checks import check_reward, check_rewards

ANSWERS = 96
RNG = np.random.default_rng(0)
REFERENCE = jax.nn.log_softmax(jnp.asarray(0.5 * RNG.standard_normal((2, ANSWERS)), jnp.float32))
TABLE = jnp.asarray(np.stack([RNG.permutation(ANSWERS) for _ in range(2)]), jnp.float32)
REWARD = exact.table_reward(TABLE)
PROMPTS = jnp.tile(jnp.arange(2), 256)
EVALUATE = exact.evaluation(policies.table_log_pmf, jnp.arange(2), REFERENCE, TABLE, n=2)


def train(step, optimizer, every, times):
    """Exact numbers before, and after each `every` steps; and the last metrics."""
    run = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: step(s, PROMPTS), state, length=every),
    )
    state = algorithms.policy_state(REFERENCE, optimizer, seed=0)
    found = [EVALUATE(state)]
    for _ in range(times):
        state, metrics = run(state)
        found.append(EVALUATE(state))
    numbers = {name: np.array([float(row[name]) for row in found]) for name in found[0]}
    return state, numbers, {name: float(value[-1]) for name, value in metrics.items()}


def test_jbond_with_a_fixed_anchor_arrives_near_best_of_2():
    optimizer = algorithms.adam(0.1, 0)
    step = algorithms.jbond_step(policies.TABULAR, optimizer, REWARD, algorithms.fixed)
    _, numbers, metrics = train(step, optimizer, 60, 1)
    for name in ("exact_forward_kl", "exact_backward_kl"):
        assert numbers[name][-1] < 0.15 * numbers[name][0], numbers[name]
    assert numbers["exact_win_rate"] == pytest.approx([0.5, 2 / 3], abs=0.03)
    assert metrics["generations"] == 3 * len(PROMPTS)
    assert metrics["tie_rate"] < 0.1


def test_jbond_with_a_moving_anchor_leaves_in_a_straight_line():
    """Slope log(1 + eta) nat a step, less what the policy lags behind Best-of-2 of its anchor."""
    optimizer, eta = algorithms.adam(0.15, 0), 0.05
    step = algorithms.jbond_step(
        policies.TABULAR,
        optimizer,
        REWARD,
        algorithms.ema(eta),
        reference=policies.frozen(policies.TABULAR, REFERENCE),
    )
    _, numbers, metrics = train(step, optimizer, 20, 4)
    kl = numbers["exact_kl_to_reference"]
    slopes = np.diff(kl)[1:] / 20 / np.log1p(eta)
    assert np.all((slopes > 0.6) & (slopes < 1.15)), slopes
    # Past Best-of-2 of the reference: nearest to it at first, then ever farther away.
    assert numbers["exact_forward_kl"][-1] > numbers["exact_forward_kl"][1]
    assert metrics["kl_to_reference"] == pytest.approx(kl[-1], rel=0.1)
    assert metrics["kl_to_anchor"] < metrics["kl_to_reference"]


def toy_state(optimizer, dtype=jnp.float32):
    return algorithms.policy_state(jnp.zeros((2, 4), dtype), optimizer, seed=3)


def test_the_ema_anchor_follows_its_formula_with_the_updated_weights():
    optimizer, eta = optax.sgd(1.0), 0.3
    reward = exact.table_reward(jnp.arange(8.0).reshape(2, 4))
    step = jax.jit(algorithms.jbond_step(policies.TABULAR, optimizer, reward, algorithms.ema(eta)))
    state = toy_state(optimizer)
    anchor = np.zeros((2, 4))
    for _ in range(4):
        state, _ = step(state, jnp.array([0, 1, 1]))
        anchor = (1 - eta) * anchor + eta * np.asarray(state.weights, float)
        np.testing.assert_allclose(state.anchor, anchor, atol=1e-6)
    assert np.abs(anchor).max() > 0.05
    assert int(state.step) == 4


def test_a_hard_anchor_jumps_and_a_fixed_one_stays():
    weights, anchor = jnp.full(3, 2.0), jnp.zeros(3)
    jumps = algorithms.hard(3)
    found = [float(jumps(anchor, weights, jnp.int32(t))[0]) for t in range(1, 7)]
    assert found == [0, 0, 2, 0, 0, 2]
    assert algorithms.fixed(anchor, weights, jnp.int32(3)) is anchor
    with pytest.raises(ValueError, match="period"):
        algorithms.hard(0)
    with pytest.raises(ValueError, match="eta"):
        algorithms.ema(1.5)


def test_the_anchor_of_a_bfloat16_policy_keeps_small_changes():
    """512 moves of 2e-4 of the way from 1 to 1.5: bfloat16 would round every one of them away."""
    weights = jnp.full(2, 1.5, jnp.bfloat16)
    state = algorithms.policy_state(jnp.ones(2, jnp.bfloat16), optax.sgd(1.0), seed=0)
    assert state.anchor.dtype == jnp.float32
    moves = algorithms.ema(2e-4)

    def body(_, anchor):
        return moves(anchor, weights, jnp.int32(0))

    anchor = jax.lax.fori_loop(0, 512, body, state.anchor)
    assert anchor.dtype == jnp.float32
    np.testing.assert_allclose(anchor, 1.5 - 0.5 * (1 - 2e-4) ** 512, rtol=1e-5)


def test_iterated_bond_runs_in_the_loop_and_compiles_once():
    optimizer = algorithms.adam(0.1, 2)
    arguments = {"n": 2, "period": 2, "k": 4}
    one, other = (
        algorithms.iterated_bond_step(policies.TABULAR, optimizer, REWARD, **arguments)
        for _ in range(2)
    )
    assert (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    assert algorithms.adam(0.1, 2) is optimizer
    state = algorithms.policy_state(REFERENCE, optimizer, seed=0)
    state, history = lab.fit(one, state, iter([PROMPTS] * 3), num_steps=3, log_every=3)
    assert history["generations"][1].tolist() == [5 * len(PROMPTS)]
    assert set(history) >= {"reward", "kl_to_anchor", "tie_rate", "loss", "log_quantile"}
    # The anchor is the policy of two updates: not where it began, and not where it is.
    for away in (REFERENCE, state.weights):
        assert np.abs(np.asarray(state.anchor - away)).max() > 0.02


def test_best_of_n_sampling_has_the_rewards_of_best_of_n():
    step = jax.jit(algorithms.best_of_n_sampling_step(policies.TABULAR, REWARD, n=4))
    state = algorithms.policy_state(REFERENCE, optax.sgd(1.0), seed=0)
    after, metrics = step(state, jnp.tile(jnp.arange(2), 2000))
    probs, ranks = np.exp(np.asarray(REFERENCE, float)), np.asarray(TABLE, int)
    wanted = []
    for prompt in range(2):
        ordered = np.zeros(ANSWERS)
        ordered[ranks[prompt]] = probs[prompt]
        wanted.append(np.sum(1 - np.cumsum(ordered)[:-1] ** 4))  # E[max] = sum P(max > level)
    assert float(metrics["reward"]) == pytest.approx(np.mean(wanted), abs=4 * 20 / np.sqrt(4000))
    assert np.array_equal(after.weights, state.weights)
    assert float(metrics["generations"]) == 16000


def test_supervised_steps_descend_the_likelihood_of_what_they_are_given():
    state = toy_state(optax.sgd(1.0))
    prompts, answers = jnp.array([0, 1]), jnp.array([[2, 2], [1, 3]])
    expected = np.full((2, 4), 1 / 4) / 2
    for prompt, row in enumerate(answers.tolist()):
        for answer in row:
            expected[prompt, answer] -= 1 / 4
    given = algorithms.sft_step(policies.TABULAR, optax.sgd(1.0))
    drawn = algorithms.imitation_step(policies.TABULAR, optax.sgd(1.0), lambda *_: answers, 2)
    for after, _ in (given(state, (prompts, answers)), drawn(state, prompts)):
        np.testing.assert_allclose(after.weights, -expected, atol=1e-6)


@pytest.mark.parametrize("rule", ["floor", "plus-one"])
def test_counted_quantiles_against_the_exact_estimator(rule):
    rng = np.random.default_rng(1)
    rewards, anchors = rng.integers(0, 4, (5, 3)), rng.integers(0, 4, (5, 6))
    count = np.array([[sum(a <= r for a in anchors[i]) for r in rewards[i]] for i in range(5)])
    assert count.min() == 0
    found = monte_carlo.log_quantile(
        jnp.asarray(rewards, jnp.float32), jnp.asarray(anchors, jnp.float32), rule
    )
    np.testing.assert_allclose(
        found, quantile_estimates.log_estimate(count, 6, rule), rtol=1e-5, atol=1e-6
    )


def test_tie_rate_counts_pairs():
    rewards = jnp.array([[1.0, 1, 2], [3, 3, 3], [1, 2, 3], [np.nan, np.nan, 1]])
    assert float(monte_carlo.tie_rate(rewards)) == pytest.approx((1 / 3 + 1 + 0 + 0) / 4)


def test_a_reward_without_signal_is_refused_before_training():
    rng = np.random.default_rng(0)
    report = check_rewards(rng.standard_normal((20, 8)).astype(np.float32))
    assert report[:2] == (0, 0)
    rare = np.zeros((20, 8), np.float32)
    rare[:4, 0] = 1  # a binary reward: 7 of 28 pairs differ for 4 of the 20 prompts
    with pytest.raises(ValueError, match=r"tie rate 0\.950"):
        check_rewards(rare)
    assert check_rewards(rare, max_tie_rate=0.99).constant_prompts == pytest.approx(16 / 20)
    with pytest.raises(ValueError, match=r"constant.*tie rate 1\.000"):
        check_rewards(np.ones((20, 8), np.float32))
    rare[1] = np.nan
    with pytest.raises(ValueError, match="prompt 1"):
        check_rewards(rare)
    constant = exact.table_reward(jnp.zeros(TABLE.shape))
    with pytest.raises(ValueError, match="constant"):
        check_reward(policies.TABULAR, REFERENCE, PROMPTS, constant, jax.random.key(0))


def test_wrong_settings_are_refused():
    common = policies.TABULAR, optax.sgd(1.0), REWARD
    for message, make in {
        "beta": lambda: algorithms.jbond_step(*common, algorithms.fixed, beta=2),
        "gamma": lambda: algorithms.jbond_step(*common, algorithms.fixed, gamma=-1),
        "n:": lambda: algorithms.bond_step(*common, n=1),
        "k:": lambda: algorithms.vbon_step(*common, n=2, k=1),
        "alpha": lambda: algorithms.bonbon_step(*common, n=2, alpha=2),
        "beta_rl": lambda: algorithms.reinforce_step(*common, beta_rl=-1),
        "num_samples": lambda: algorithms.reinforce_step(*common, beta_rl=1, num_samples=1),
    }.items():
        with pytest.raises(ValueError, match=message):
            make()
    flat = algorithms.best_of_n_sampling_step(policies.TABULAR, lambda p, a: a[:, 0], n=2)
    with pytest.raises(ValueError, match="one number an answer"):
        flat(algorithms.policy_state(REFERENCE, optax.sgd(1.0), seed=0), PROMPTS)
