"""Rewards: learned ones against NumPy and on tasks that can be learned, those on texts by use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.bond import algorithms, enumerable_lm, reward_checks, rewards, sequences
from matchbook.bond.scalar_head import head_on_trunk, scalar_head

STOP, LENGTH = 7, 3
PROMPTS = sequences.token_prompts([[1, 2], [5], [3, 3]])
GRAPH, TRUNK = enumerable_lm.new_model(enumerable_lm.config(16), seed=0)
POLICY = sequences.transformer_policy(GRAPH, LENGTH, (STOP,))


def test_losses_are_those_of_the_definition():
    own, others = np.array([[0.5], [-3.0]]), np.array([[0.1, 2.0], [-1.0, 0.0]])
    given = jnp.asarray(own, jnp.float32), jnp.asarray(others, jnp.float32)
    chances = 1 / (1 + np.exp(-(own - others[:, :1])))
    found = rewards.bradley_terry_loss(given[0], given[1][:, :1])
    assert float(found) == pytest.approx(-np.mean(np.log(chances)))
    right = -np.mean(np.log(1 / (1 + np.exp(-own))))
    wrong = -np.mean(np.log(1 - 1 / (1 + np.exp(-others))))
    assert float(rewards.entailment_loss(*given)) == pytest.approx((right + wrong) / 2)


def test_mismatched_answers_are_other_prompts():
    answers = jnp.arange(8).reshape(4, 2)
    found = np.asarray(rewards.mismatched(answers, 3))
    assert found.shape == (4, 3, 2)
    for row in range(4):
        assert {tuple(a) for a in found[row].tolist()} == {
            tuple(a) for i, a in enumerate(answers.tolist()) if i != row
        }
    with pytest.raises(ValueError, match=r"expected 1 to 3 other answers"):
        rewards.mismatched(answers, 4)


def learned(step, batches):
    """The state and the metrics after so many batches, stacked along the first axis."""
    optimizer = algorithms.adam(0.01, 0)
    state = rewards.reward_state(head_on_trunk(TRUNK, 16), optimizer)
    run = jax.jit(lambda s, b: jax.lax.scan(step, s, b))
    return run(state, batches)


def batches_of(make, steps=150):
    """Prompts are a token each, 63 in a batch; answers are made from them, random otherwise."""
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.permutation(7) for _ in range(9 * steps)]).reshape(steps, 63, 1)
    tokens = jnp.asarray(tokens, jnp.int32)
    prompts = sequences.TokenPrompts(tokens, jnp.ones_like(tokens))
    noise = jnp.asarray(rng.integers(0, 7, (2, *tokens.shape[:2], LENGTH)), jnp.int32)
    return (prompts, *make(tokens, *noise))


def test_matching_learns_which_answer_belongs_to_the_prompt():
    """The answer's second token is the prompt's: nothing but the pair says so."""

    def make(tokens, noise, _):
        return (noise.at[..., 1].set(tokens[..., 0]),)

    model = scalar_head(GRAPH, (STOP,))
    step = rewards.matching_step(model, algorithms.adam(0.01, 0), mismatches=2)
    _, metrics = learned(step, batches_of(make, steps=400))
    assert metrics["loss"][0] == pytest.approx(np.log(2), rel=1e-5)  # a head of zeros
    assert metrics["accuracy"][0] == 0.5
    # At best 0.98: next to each other, two of nine groups of seven meet with the same prompt.
    assert metrics["accuracy"][-10:].mean() > 0.9


def test_bradley_terry_learns_an_order():
    """The answer with the larger first token is chosen."""

    def make(tokens, one, other):
        larger = (one[..., :1] > other[..., :1]).astype(jnp.int32)
        return larger * one + (1 - larger) * other, larger * other + (1 - larger) * one

    model = scalar_head(GRAPH, (STOP,))
    step = rewards.preference_step(model, algorithms.adam(0.01, 0))
    state, metrics = learned(step, batches_of(make))
    assert metrics["accuracy"][-10:].mean() > 0.85  # 1 of 7 pairs ties in the first token
    answers = jnp.zeros((1, 7, LENGTH), jnp.int32).at[0, :, 0].set(jnp.arange(7))
    scores = np.asarray(model(state.weights, sequences.token_prompts([[4]]), answers))[0]
    assert np.corrcoef(scores, np.arange(7))[0, 1] > 0.9


def test_what_people_wrote_is_preferred_to_samples():
    rows = sequences.answered_prompts([([1, 2], [4, 7]), ([5], [1]), ([3], [2, 2])], 2, LENGTH)
    found = rewards.against_samples(POLICY, TRUNK, rows, 4, jax.random.key(0), batch_size=2)
    assert [len(part) for part in found] == [12] * 4
    for place in range(12):
        for name, of in (("tokens", "tokens"), ("segments", "segments"), ("chosen", "answers")):
            wanted = getattr(rows, of)[place // 4]
            np.testing.assert_array_equal(getattr(found, name)[place], wanted)
    assert len(np.unique(found.rejected[:4], axis=0)) > 1
    ended = np.cumsum(found.rejected == STOP, axis=1) - (found.rejected == STOP) > 0
    assert not found.rejected[ended].any()
    prompts, chosen, rejected = found.batch
    np.testing.assert_array_equal(prompts.tokens, found.tokens)
    assert (chosen.shape, rejected.shape) == ((12, LENGTH), (12, LENGTH))


def text(tokens):
    return "".join("abcdefgh"[token] for token in tokens)


def in_steps(reward, steps=3):
    """Rewards that steps of best-of-2 sampling, compiled, report."""
    step = jax.jit(algorithms.best_of_n_sampling_step(POLICY, reward, n=2))
    state, found = algorithms.policy_state(TRUNK, algorithms.DESCENT, seed=0), []
    for _ in range(steps):
        state, metrics = step(state, PROMPTS)
        found.append(float(metrics["compared_reward"]))
    return found


def test_a_plain_function_of_texts_is_a_reward_and_is_asked_once_for_each_pair():
    asked = []

    def score(prompts, answers):
        asked.extend(zip(prompts, answers, strict=True))
        return [2 * prompt.count("d") + len(answer) for prompt, answer in zip(prompts, answers)]

    def same(prompts, answers):
        length = jnp.sum(sequences.counted(answers, (STOP,)) & (answers != STOP), axis=-1)
        is_d = (prompts.tokens == 3) & (prompts.segments > 0)
        return (2 * jnp.sum(is_d, axis=1)[:, None] + length).astype(jnp.float32)

    reward = rewards.HostReward(score, text, (STOP,))
    assert in_steps(reward) == pytest.approx(in_steps(same))
    assert len(asked) == len(set(asked)) == len(reward.cached) > 6
    assert {prompt for prompt, _ in asked} == {"bc", "f", "dd"}
    assert not any("h" in answer for _, answer in asked)  # the stop is no text
    calls = reward.calls
    assert reward.of_texts(asked) == [reward.cached[pair] for pair in asked]
    assert reward.calls == calls


def test_what_a_plain_function_returns_is_checked():
    with pytest.raises(ValueError, match=r"finite reward, got nan for the answer 'xy' to .* 'ab'"):
        rewards.HostReward(lambda p, a: [np.nan], text).of_texts([("ab", "xy")])
    with pytest.raises(ValueError, match="expected 1, got 2"):
        rewards.HostReward(lambda p, a: [1, 2], text).of_texts([("ab", "xy")])


def test_a_reward_without_signal_is_told_by_its_tie_rate():
    for score, message in {
        lambda p, a: [1.0] * len(a): r"constant, 1.0, .*tie rate 1\.000",
        lambda p, a: [float(x == "aaa") for x in a]: r"tie rate",
    }.items():
        reward = rewards.HostReward(score, text, (STOP,))
        with pytest.raises(ValueError, match=message):
            reward_checks.check_reward(POLICY, TRUNK, PROMPTS, reward, jax.random.key(0))
