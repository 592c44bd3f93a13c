"""Every stochastic gradient against the exact one, on policies that can be listed.

The exact ones come from enumeration in NumPy and from `bond.gradients`; the stochastic ones from
the very steps that train. Each must agree within 4 standard errors and be seen clearly.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from scipy.stats import binom

from matchbook.bond import algorithms, exact, gradients, learned_quantile, policies
from matchbook.bond.algorithms import vbon
from matchbook.bond.algorithms.scoring import leave_one_out, policy_gradient
from matchbook.bond.jbond import expected_reward
from matchbook.bond.quantile_estimates import log_estimate, mean_log_estimate

PROMPTS, ANSWERS, FEATURES = 2, 5, 3
N, K, BATCHES = 3, 4, 6000
BETA_RL, ALPHA = 0.3, 0.2

RNG = np.random.default_rng(3)
BASE = RNG.standard_normal((PROMPTS, ANSWERS))
PHI = RNG.standard_normal((PROMPTS, ANSWERS, FEATURES))
REWARDS = np.array([[0.0, 2, 1, 1, 3], [2.0, 0, 1, 3, 3]])  # with ties
WEIGHTS, ANCHOR = 0.5 * RNG.standard_normal((2, FEATURES))
QUANTILE = 0.5 * RNG.standard_normal((PROMPTS, ANSWERS))

POLICY = log_softmax(BASE + PHI @ WEIGHTS, axis=1)
REFERENCE = log_softmax(BASE + PHI @ ANCHOR, axis=1)
LESS_EQUAL = np.einsum("pj,pij->pi", np.exp(REFERENCE), REWARDS[:, None, :] <= REWARDS[:, :, None])
LESS = np.einsum("pj,pij->pi", np.exp(REFERENCE), REWARDS[:, None, :] < REWARDS[:, :, None])
SCORES = PHI - np.einsum("pa,paf->pf", np.exp(POLICY), PHI)[:, None]


def weighted(value):
    """``-E_{y ~ policy}[score(y) * value(y)]``, mean over the prompts."""
    return -np.einsum("pa,paf,pa->f", np.exp(POLICY), SCORES, value) / PROMPTS


def per_prompt(function):
    """The mean over the prompts of a function of `gradients`, in float64."""
    with jax.enable_x64(True):
        given = (SCORES, POLICY, REFERENCE, REWARDS)
        return np.mean([function(*map(jnp.asarray, row)) for row in zip(*given)], axis=0)


def forward(n):
    return per_prompt(lambda s, p, ref, r: gradients.forward(s, ref, r, n))


def regularisation():
    return per_prompt(lambda s, p, ref, r: gradients.regularisation(s, p, ref))


def jbond_backward():
    return weighted(expected_reward(LESS_EQUAL) - (POLICY - REFERENCE))


def bond_backward(rule):
    return weighted((N - 1) * mean_log_estimate(LESS_EQUAL, K, rule) - (POLICY - REFERENCE))


def learned_backward():
    log_p = -np.log1p(np.exp(-QUANTILE))
    return weighted((N - 1) * log_p - (POLICY - REFERENCE))


def vbon_gradient():
    """The mean over the binomial count of worse anchor samples, term by term."""
    mean = np.zeros_like(POLICY)
    for count in range(K + 1):
        log_f = log_estimate(count, K, "plus-one")
        target = np.log((np.exp(log_f) + np.exp(REFERENCE)) ** N - np.exp(log_f) ** N)
        mean += binom.pmf(count, K, LESS) * target
    return weighted(mean - POLICY)


def bonbon_gradient():
    """By going through all N-tuples of anchor samples."""
    ratio = POLICY - REFERENCE
    total = np.zeros(FEATURES)
    for prompt, drawn in itertools.product(
        range(PROMPTS), itertools.product(range(ANSWERS), repeat=N)
    ):
        probability = np.exp(REFERENCE[prompt, list(drawn)].sum())
        rewards = REWARDS[prompt, list(drawn)]
        best, worst = drawn[int(np.argmax(rewards))], drawn[int(np.argmin(rewards))]
        scores = SCORES[prompt]
        margin = ratio[prompt, best] - ratio[prompt, worst]
        ipo = 2 * (margin - (N - 1) * (1 + 1 / 2)) * (scores[best] - scores[worst])
        total += probability * (ALPHA * -scores[best] + (1 - ALPHA) * ipo)
    return total / PROMPTS


@functools.cache
def setting():
    policy = policies.enumerable(
        policies.log_linear_log_pmf(jnp.asarray(BASE, jnp.float32), jnp.asarray(PHI, jnp.float32))
    )
    state = algorithms.policy_state(jnp.asarray(WEIGHTS, jnp.float32), algorithms.DESCENT, seed=0)
    state = state._replace(anchor=jnp.asarray(ANCHOR, jnp.float32))
    reward = exact.table_reward(jnp.asarray(REWARDS, jnp.float32))
    return policy, state, reward, jnp.tile(jnp.arange(PROMPTS), 4)


def steps():
    policy, _, reward, _ = setting()
    common = policy, algorithms.DESCENT, reward
    jbond = functools.partial(algorithms.jbond_step, *common, algorithms.ema(0.02))
    bond = functools.partial(algorithms.bond_step, *common, n=N, k=K)
    return {
        "jbond forward": (jbond(beta=0), lambda: forward(2)),
        "jbond backward": (jbond(beta=1), jbond_backward),
        "jbond all": (
            jbond(beta=0.3, gamma=0.7),
            lambda: 0.7 * forward(2) + 0.3 * jbond_backward() + 0.7 * regularisation(),
        ),
        "bond forward": (bond(beta=0), lambda: forward(N)),
        "bond backward floor": (bond(beta=1), lambda: bond_backward("floor")),
        "bond half plus-one": (
            bond(beta=0.5, zero_rule="plus-one"),
            lambda: 0.5 * forward(N) + 0.5 * bond_backward("plus-one"),
        ),
        "reinforce": (
            algorithms.reinforce_step(*common, beta_rl=BETA_RL),
            lambda: weighted(REWARDS - BETA_RL * (POLICY - REFERENCE)),
        ),
        "sft best of n": (algorithms.sft_best_of_n_step(*common, n=N), lambda: forward(N)),
        "vbon": (algorithms.vbon_step(*common, n=N, k=K), vbon_gradient),
        "bonbon": (algorithms.bonbon_step(*common, n=N, alpha=ALPHA), bonbon_gradient),
    }


@pytest.fixture(scope="module")
def measured():
    """The statistics of all steps, and of J-BOND's regulariser alone, from one compilation."""
    policy, state, reward, prompts = setting()
    every = {name: step for name, (step, _) in steps().items()}
    common = policy, algorithms.DESCENT, reward, algorithms.ema(0.02)
    for sign in (False, True):
        every[f"gamma {sign}"] = functools.partial(
            difference,
            algorithms.jbond_step(*common, beta=1, gamma=1, printed_sign=sign),
            algorithms.jbond_step(*common, beta=1, gamma=0),
        )

    def all_of_them(state, prompts):
        return {
            name: algorithms.gradient_statistics(step, state, prompts, BATCHES)
            for name, step in every.items()
        }

    return jax.jit(all_of_them)(state, prompts)


def difference(one, other, state, prompts):
    """A step by the difference of two gradients, made from the same samples."""
    new, metrics = one(state, prompts)
    change = new.weights - other(state, prompts)[0].weights
    return state._replace(weights=state.weights + change), metrics


def agrees(found, expected):
    z = np.asarray(found.z_scores(jnp.asarray(expected, jnp.float32)))
    assert np.abs(z).max() < 4, (z, found.mean, expected)
    # It must be able to fail: the gradient stands well out of its own noise.
    assert np.linalg.norm(expected / np.asarray(found.standard_error)) > 30
    assert float(found.total_variance) > 0


@pytest.mark.parametrize("name", steps())
def test_mean_gradient(measured, name):
    agrees(measured[name], steps()[name][1]())


def test_regularisation_alone_and_its_printed_sign(measured):
    agrees(measured["gamma False"], regularisation())
    agrees(measured["gamma True"], -regularisation())


def test_estimators_can_be_told_apart(measured):
    """The two zero rules, and J-BOND's crude reward, have different means on purpose."""
    found = measured["bond backward floor"]
    z = np.asarray(found.z_scores(jnp.asarray(bond_backward("plus-one"), jnp.float32)))
    assert np.abs(z).max() > 6
    exact_quantile = per_prompt(lambda s, p, ref, r: gradients.backward(s, p, ref, r, 2))
    z = np.asarray(measured["jbond backward"].z_scores(jnp.asarray(exact_quantile, jnp.float32)))
    assert np.abs(z).max() > 6


def test_both_gradients_of_bond_with_a_learned_quantile():
    policy, state, reward, prompts = setting()
    step = algorithms.learned_bond_step(
        policy,
        learned_quantile.table_quantile,
        algorithms.DESCENT,
        algorithms.DESCENT,
        reward,
        n=N,
        beta=1,
    )
    start = algorithms.learned_bond_state(
        state.weights,
        jnp.asarray(QUANTILE, jnp.float32),
        algorithms.DESCENT,
        algorithms.DESCENT,
        seed=1,
    )
    start = start._replace(policy=state)

    def gradient(key):
        new, _ = step(start._replace(policy=state._replace(key=key)), prompts)
        return state.weights - new.weights, start.quantile - new.quantile

    keys = jax.random.split(jax.random.key(2), BATCHES)
    run = jax.jit(jax.vmap(gradient))
    found = [np.asarray(g, np.float64).reshape(BATCHES, -1) for g in run(keys)]
    # Eq. 25: the policy's probability of the answer, times sigmoid minus the true quantile.
    chance = 1 / (1 + np.exp(-QUANTILE))
    wanted = np.exp(POLICY) * (chance - LESS_EQUAL) / PROMPTS
    for gradients_, expected in zip(found, (learned_backward(), wanted.reshape(-1))):
        error = gradients_.std(axis=0, ddof=1) / np.sqrt(BATCHES)
        # Where every anchor sample is at most as good the comparison is certain: no noise.
        z = (gradients_.mean(axis=0) - expected) / np.maximum(error, 1e-7)
        assert np.abs(z).max() < 4, z
        assert np.linalg.norm(expected / np.maximum(error, 1e-7)) > 30


def test_leave_one_out_is_unbiased_and_less_noisy():
    rng = np.random.default_rng(0)
    returns = rng.standard_normal((4, 3))
    others = [[np.delete(returns, 3 * i + j).mean() for j in range(3)] for i in range(4)]
    np.testing.assert_allclose(leave_one_out(jnp.asarray(returns, jnp.float32)), others, rtol=1e-5)
    others = [[np.delete(returns[i], j).mean() for j in range(3)] for i in range(4)]
    found = leave_one_out(jnp.asarray(returns, jnp.float32), axis=1)
    np.testing.assert_allclose(found, others, rtol=1e-5)
    with pytest.raises(ValueError, match="at least"):
        leave_one_out(jnp.zeros((1, 1)))

    policy, state, _, prompts = setting()
    rewards = jnp.asarray(REWARDS, jnp.float32) + 3  # a mean away from 0: baselines matter

    def gradient(key, with_baseline):
        answers, _ = policy.sample(state.weights, prompts, key, 1)
        returns = jnp.take_along_axis(rewards[prompts], answers, axis=1)

        def loss(weights):
            log_probs = policy.log_prob(weights, prompts, answers)
            if with_baseline:
                return policy_gradient(log_probs, returns)
            return -jnp.mean(log_probs * returns)

        return jax.grad(loss)(state.weights)

    keys = jax.random.split(jax.random.key(5), BATCHES)
    expected, total = weighted(REWARDS), {}
    for with_baseline in (True, False):
        run = jax.jit(
            jax.vmap(functools.partial(gradient, with_baseline=with_baseline)),
        )
        found = np.asarray(run(keys), np.float64)
        error = found.std(axis=0, ddof=1) / np.sqrt(BATCHES)
        assert np.abs((found.mean(axis=0) - expected) / error).max() < 4
        total[with_baseline] = found.var(axis=0).sum()
    assert total[True] < 0.8 * total[False]


@pytest.mark.parametrize("n", [2, 5, 16])
def test_vbon_is_theorem_1_without_ties(n):
    rng = np.random.default_rng(n)
    reference = log_softmax(3 * rng.standard_normal(9))
    worse = np.concatenate([[0.0], np.cumsum(np.exp(reference))[:-1]])
    with np.errstate(divide="ignore"):
        log_worse = np.log(worse)
    found = vbon.log_best_of_n(
        jnp.asarray(np.maximum(log_worse, -80), jnp.float32), jnp.asarray(reference, jnp.float32), n
    )
    wanted = np.log((worse + np.exp(reference)) ** n - worse**n)
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)
    assert abs(float(logsumexp(np.asarray(found)))) < 1e-4


@pytest.mark.parametrize("n", [2, 4, 8])
def test_bonbon_margin_is_that_of_best_of_n(n):
    """The mean of log (BoN / ref) at the best less that at the worst of n uniform quantiles."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u = (nodes + 1) / 2
    best = np.sum(weights / 2 * n * u ** (n - 1) * (n - 1) * np.log(u))
    worst = np.sum(weights / 2 * n * (1 - u) ** (n - 1) * (n - 1) * np.log(u))
    assert algorithms.bonbon.target_margin(n) == pytest.approx(best - worst, rel=1e-4)
