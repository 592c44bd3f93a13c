"""Best-of-N against brute force over all N-tuples, 400-digit arithmetic, bounds and invariances."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matchbook import divergences
from matchbook.bond import best_of_n, brute_force

ANSWERS = 5


def spaces(seed, cases, answers=ANSWERS, levels=3):
    """Random references and rewards; few reward levels give many ties."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(0.5 * np.ones(answers), size=cases)
    return probs, rng.integers(0, levels, size=(cases, answers))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("ties", ["first", "last", "random"])
@pytest.mark.parametrize("levels", [1, 3, 50])
def test_theorem_1_equals_brute_force(n, ties, levels):
    probs, rewards = spaces(0, 30, levels=levels)
    expected = brute_force.pmf(probs, rewards, n, ties)
    with jax.enable_x64(True):
        got = jnp.exp(best_of_n.log_pmf(jnp.log(probs), jnp.asarray(rewards), n))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)
    single = best_of_n.log_pmf(jnp.asarray(np.log(probs), jnp.float32), jnp.asarray(rewards), n)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(np.exp(single), expected, rtol=1e-5, atol=1e-7)


def test_the_worked_example():
    # By hand: the worst wins only against itself, the best unless both draws miss it.
    by_hand = [0.5**2, 1 - 0.5**2 - (1 - 0.8**2), 1 - 0.8**2]
    with jax.enable_x64(True):
        reference = jnp.log(jnp.array([0.5, 0.3, 0.2]))
        best = best_of_n.log_pmf(reference, jnp.arange(3), 2)
        np.testing.assert_allclose(np.exp(best), by_hand, atol=1e-15)
        assert divergences.forward_kl(best, reference) == pytest.approx(0.1406384674, abs=1e-10)


def exact_log_pmf(log_probs, rewards, n, digits=400):
    """Theorem 1's closed form with `digits` digits: room for 1 - 1e-300 and its millionth power."""
    with localcontext(prec=digits, Emin=-(10**12), Emax=10**12):
        probs = [Decimal(float(x)).exp() for x in log_probs]
        total = sum(probs)
        probs = [p / total for p in probs]
        out = []
        for i, reward in enumerate(rewards):
            less = sum((p for p, r in zip(probs, rewards, strict=True) if r < reward), Decimal(0))
            tied = sum((p for p, r in zip(probs, rewards, strict=True) if r == reward), Decimal(0))
            out.append(float((probs[i] / tied * ((less + tied) ** n - less**n)).ln()))
        return np.array(out)


EXTREMES = {
    "one rare best": [-np.log(7)] * 7 + [-690.0],
    "one rare worst": [-690.0] + [-np.log(7)] * 7,
    "rare everywhere": [-690.0, -5.0, -690.0, -0.01, -80.0, -690.0, -300.0, -10.0],
    "rising": list(np.linspace(-690.0, 0.0, 8)),
    "falling": list(np.linspace(0.0, -690.0, 8)),
    "about one in N": [0.0, -13.8, -14.5, -20.0, -12.0, -13.8, -100.0, -13.0],
    "even": [-np.log(8)] * 8,
}


@pytest.mark.parametrize("n", [2, 1000, 1_000_000])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", EXTREMES)
def test_extreme_logs_in_single_precision(case, tied, n):
    log_probs = np.asarray(EXTREMES[case], np.float32)
    rewards = np.arange(8) // (2 if tied else 1)
    expected = exact_log_pmf(log_probs, rewards, n)
    got = np.asarray(jitted_log_pmf(jnp.asarray(log_probs), jnp.asarray(rewards), jnp.asarray(n)))
    # Relative to the largest log that goes into it: a log of -690 has a rounding error of 3e-5.
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-4)
    assert np.exp(got).sum() == pytest.approx(1, abs=2e-6)


def projection_of_two(log_probs, rewards, n):
    """Both outputs where they are finite, weighed by something that is not constant."""
    outputs = (
        best_of_n.log_pmf(log_probs, rewards, n),
        best_of_n.bond_reward(log_probs, rewards, n),
    )
    weight = jnp.cos(jnp.arange(8, dtype=log_probs.dtype))
    return sum(jnp.where(jnp.isneginf(x), 0, weight * x).sum() for x in outputs)


gradient_of_two = jax.jit(jax.grad(projection_of_two))
jitted_log_pmf = jax.jit(best_of_n.log_pmf)


@pytest.mark.parametrize("n", [2, 7, 1_000_000])
@pytest.mark.parametrize("case", EXTREMES)
def test_gradients_are_finite_at_the_extremes(case, n):
    for impossible in (None, 0, 3, 7):
        log_probs = jnp.asarray(EXTREMES[case], jnp.float32)
        if impossible is not None:
            log_probs = log_probs.at[impossible].set(-jnp.inf)
        for rewards in (jnp.arange(8), jnp.arange(8) // 2, jnp.zeros(8, int)):
            gradient = gradient_of_two(log_probs, rewards, jnp.asarray(n))
            assert bool(jnp.isfinite(gradient).all())
            # The same in double precision: the floor of float32's range plays no part in it.
            with jax.enable_x64(True):
                arguments = (jnp.asarray(np.asarray(log_probs), float), jnp.asarray(rewards))
                double = np.asarray(gradient_of_two(*arguments, jnp.asarray(n)))
            scale = max(1.0, np.abs(double).max())
            np.testing.assert_allclose(gradient, double, atol=2e-4 * scale)


@jax.jit
@jax.grad
def gradient_of_projection(log_probs, rewards, n, weights):
    return best_of_n.log_pmf(log_probs, rewards, n) @ weights


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("case", range(6))
def test_gradient_equals_finite_differences(n, case):
    probs, rewards = (column[case] for column in spaces(1, 6))
    weights = np.random.default_rng(2).standard_normal(ANSWERS)

    def projection(logits):
        tilted = np.exp(logits) / np.exp(logits).sum()
        return float(np.log(brute_force.pmf(tilted, rewards, n)) @ weights)

    with jax.enable_x64(True):
        arguments = (jnp.log(probs), jnp.asarray(rewards), jnp.asarray(n), jnp.asarray(weights))
        gradient = np.asarray(gradient_of_projection(*arguments))
    for i in range(ANSWERS):
        bump = 1e-5 * np.eye(ANSWERS)[i]
        slope = (projection(np.log(probs) + bump) - projection(np.log(probs) - bump)) / 2e-5
        assert gradient[i] == pytest.approx(slope, abs=1e-7)


answers_strategy = st.lists(
    st.tuples(st.floats(1e-6, 1.0), st.integers(0, 4)), min_size=8, max_size=8
)


@jax.jit
def everything(log_probs, rewards, n):
    best = best_of_n.log_pmf(log_probs, rewards, n)
    reference = jax.nn.log_softmax(log_probs)
    return {
        "total": jnp.exp(best).sum(),
        "log_collision": best_of_n.log_collision(log_probs, rewards, n),
        "kl": divergences.backward_kl(reference, best),
        "win_rate": best_of_n.win_rate(best, reference, rewards),
    }


@settings(max_examples=200, deadline=None, derandomize=True)
@given(answers_strategy, st.integers(1, 100_000))
def test_bounds(answers, n):
    weights, rewards = (np.array(column) for column in zip(*answers, strict=True))
    with jax.enable_x64(True):
        got = everything(jnp.log(weights), jnp.asarray(rewards), jnp.asarray(n))
        got = {name: np.asarray(value) for name, value in got.items()}
    slack = 1e-9
    assert got["total"] == pytest.approx(1, abs=slack)
    assert np.all(got["log_collision"] >= -slack)  # Eq. 5
    assert np.all(got["log_collision"] <= np.log(n) + slack)
    worst = rewards == rewards.min()
    np.testing.assert_allclose(got["log_collision"][worst], 0, atol=slack)
    assert -slack <= got["kl"] <= best_of_n.kl_bound(n) + slack
    assert 0.5 - slack <= got["win_rate"] <= best_of_n.win_rate_bound(n) + slack


def test_bounds_are_reached_by_many_equally_likely_answers():
    with jax.enable_x64(True):
        reference = jnp.full(200_000, -jnp.log(200_000.0))
        rewards = jnp.arange(200_000)
        best = best_of_n.log_pmf(reference, rewards, 8)
        assert divergences.forward_kl(best, reference) == pytest.approx(
            best_of_n.kl_bound(8), abs=1e-4
        )
        assert best_of_n.win_rate(best, reference, rewards) == pytest.approx(
            best_of_n.win_rate_bound(8), abs=1e-4
        )
        assert best_of_n.log_collision(reference, rewards, 8)[-1] == pytest.approx(
            np.log(8), abs=1e-4
        )


@pytest.mark.parametrize("n", [2, 3, 8, 1000])
def test_best_of_n_is_an_rlhf_optimum(n):
    probs, rewards = spaces(3, 20, answers=9, levels=5)
    with jax.enable_x64(True):
        log_probs, rewards = jnp.log(probs), jnp.asarray(rewards)
        optimum, log_normaliser = best_of_n.rlhf_optimum(
            log_probs, best_of_n.bond_reward(log_probs, rewards, n), 1 / (n - 1)
        )
        np.testing.assert_allclose(log_normaliser, 0, atol=1e-12)
        np.testing.assert_allclose(
            jnp.exp(optimum), jnp.exp(best_of_n.log_pmf(log_probs, rewards, n)), atol=1e-13
        )


@pytest.mark.parametrize("beta", [0.05, 0.5, 3.0])
def test_rlhf_optimum_maximises_the_objective(beta):
    probs, rewards = spaces(4, 1, answers=6, levels=10)
    with jax.enable_x64(True):
        reference, rewards = jnp.log(probs[0]), jnp.asarray(rewards[0])
        optimum, log_normaliser = best_of_n.rlhf_optimum(reference, rewards, beta)

        def objective(logits):
            policy = jax.nn.log_softmax(logits)
            return jnp.exp(policy) @ rewards.astype(float) - beta * divergences.forward_kl(
                policy, reference
            )

        np.testing.assert_allclose(jax.grad(objective)(optimum), 0, atol=1e-12)
        assert objective(optimum) == pytest.approx(float(beta * log_normaliser), abs=1e-12)
        for seed in range(20):
            nudge = np.random.default_rng(seed).standard_normal(6)
            assert objective(optimum + nudge) < objective(optimum)


@pytest.mark.parametrize("rounds", [(2, 2), (2, 4), (4, 4), (3, 5), (2, 2, 2, 2), (1, 6)])
def test_rounds_multiply(rounds):
    probs, rewards = spaces(5, 40)
    with jax.enable_x64(True):
        log_probs, ranks = jnp.log(probs), jnp.asarray(rewards)
        composed = jnp.exp(best_of_n.compose(log_probs, ranks, rounds))
        direct = jnp.exp(best_of_n.log_pmf(log_probs, ranks, int(np.prod(rounds))))
        np.testing.assert_allclose(composed, direct, atol=1e-14)
    if rounds == (2, 2):
        np.testing.assert_allclose(composed, brute_force.pmf(probs, rewards, 4), atol=1e-14)


@pytest.mark.parametrize(
    "transform", [np.exp, np.cbrt, lambda r: 1e-3 * r - 7, lambda r: -1 / (r + 1)]
)
def test_only_the_order_of_rewards_matters(transform):
    probs, rewards = spaces(6, 50, answers=12, levels=6)
    log_probs = jnp.asarray(np.log(probs), jnp.float32)
    plain = jnp.asarray(rewards, jnp.float32)
    moved = jnp.asarray(transform(rewards.astype(float)), jnp.float32)
    for function in (best_of_n.bond_reward, best_of_n.log_pmf, best_of_n.log_collision):
        np.testing.assert_array_equal(function(log_probs, plain, 8), function(log_probs, moved, 8))


def test_order_of_answers_and_batch_shape_do_not_matter():
    probs, rewards = spaces(7, 12, answers=10)
    log_probs, rewards = jnp.asarray(np.log(probs), jnp.float32), jnp.asarray(rewards)
    dense = best_of_n.log_pmf(log_probs, rewards, 5)
    shuffle = np.random.default_rng(8).permutation(10)
    np.testing.assert_allclose(
        best_of_n.log_pmf(log_probs[:, shuffle], rewards[:, shuffle], 5),
        dense[:, shuffle],
        rtol=1e-5,
        atol=1e-6,
    )
    cut = best_of_n.log_pmf(log_probs.reshape(3, 4, 10), rewards.reshape(3, 4, 10), 5)
    np.testing.assert_array_equal(cut.reshape(12, 10), dense)
    rows = [best_of_n.log_pmf(log_probs[i], rewards[i], 5) for i in range(12)]
    np.testing.assert_allclose(np.stack(rows), dense, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(  # an unnormalised reference is normalised
        best_of_n.log_pmf(log_probs + 3.0, rewards, 5), dense, rtol=1e-5, atol=1e-5
    )


def test_jit_and_a_traced_n():
    probs, rewards = spaces(9, 1)
    log_probs, rewards = jnp.asarray(np.log(probs[0]), jnp.float32), jnp.asarray(rewards[0])
    ns = jnp.array([1, 2, 16, 4096])
    swept = jax.jit(jax.vmap(best_of_n.log_pmf, in_axes=(None, None, 0)))(log_probs, rewards, ns)
    for n, row in zip(ns, swept, strict=True):
        np.testing.assert_allclose(
            row, best_of_n.log_pmf(log_probs, rewards, int(n)), rtol=1e-5, atol=1e-5
        )


def test_a_real_n_is_a_power_of_the_distribution_function():
    probs, rewards = spaces(10, 1, answers=8, levels=99)
    with jax.enable_x64(True):
        got = best_of_n.log_pmf(jnp.log(probs[0]), jnp.asarray(rewards[0]), 2.7)
    order = np.argsort(rewards[0])
    cumulative = np.cumsum(probs[0][order]) ** 2.7
    np.testing.assert_allclose(np.exp(got)[order], np.diff(cumulative, prepend=0), atol=1e-14)


def test_answers_that_never_come():
    probs = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    rewards = np.array([0, 1, 1, 2, 3])
    for n in (1, 2, 100):
        got = best_of_n.log_pmf(jnp.log(jnp.asarray(probs, jnp.float32)), jnp.asarray(rewards), n)
        np.testing.assert_array_equal(np.isneginf(got), probs == 0)
        by_hand = [n * np.log(0.25), np.log1p(-(0.25**n))]
        np.testing.assert_allclose(got[np.array([1, 3])], by_hand, rtol=1e-6, atol=1e-7)


def test_win_rate_and_expected_log_quantile_by_counting_pairs():
    probs, rewards = spaces(11, 10, answers=7, levels=4)
    policy, _ = spaces(12, 10, answers=7)
    beats = (rewards[:, :, None] > rewards[:, None, :]) + 0.5 * (
        rewards[:, :, None] == rewards[:, None, :]
    )
    at_least = rewards[:, :, None] >= rewards[:, None, :]
    wins = np.einsum("ca,cab,cb->c", policy, beats, probs)
    log_quantiles = np.log(np.einsum("cab,cb->ca", at_least, probs))
    arguments = [jnp.asarray(np.log(x), jnp.float32) for x in (policy, probs)]
    np.testing.assert_allclose(
        best_of_n.win_rate(*arguments, jnp.asarray(rewards)), wins, rtol=1e-5
    )
    np.testing.assert_allclose(
        best_of_n.expected_log_quantile(*arguments, jnp.asarray(rewards)),
        (policy * log_quantiles).sum(-1),
        rtol=1e-5,
        atol=1e-6,
    )


def test_refusals():
    log_probs, rewards = jnp.zeros(3), jnp.arange(3)
    with pytest.raises(ValueError, match="N >= 1"):
        best_of_n.log_pmf(log_probs, rewards, 0)
    with pytest.raises(ValueError, match="N > 1"):
        best_of_n.bond_reward(log_probs, rewards, 1)
    with pytest.raises(ValueError, match="beta > 0"):
        best_of_n.rlhf_optimum(log_probs, rewards, 0.0)
