"""Judging: win rates by counting, Best-of-N by choosing by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook.bond import algorithms, judged, policies, rewards

PROMPTS = jnp.arange(3)
RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.standard_normal((3, 6)), jnp.float32)
TABLES = {name: jnp.asarray(RNG.integers(0, 4, (3, 6)), jnp.float32) for name in ("one", "two")}
AGAINST = jnp.asarray(RNG.integers(0, 6, (3, 4)), jnp.int32)


def model(table, prompts, answers):
    return table[prompts[:, None], answers]


JUDGES = {name: judged.Judge(model, table) for name, table in TABLES.items()}
OPPONENT = judged.Opponent(LOGITS, PROMPTS, AGAINST)


def by_hand(answers):
    """Mean reward and share of wins for each judge, by going through all pairs."""
    found = {}
    for name, table in TABLES.items():
        rewards_, points = [], []
        for prompt, answer in enumerate(answers):
            mine = float(table[prompt, answer])
            rewards_.append(mine)
            for other in AGAINST[prompt]:
                theirs = float(table[prompt, other])
                points.append(0.5 if mine == theirs else float(mine > theirs))
        found |= {name: np.mean(rewards_), f"{name}_win": np.mean(points)}
    return found


def test_numbers_of_a_state_are_those_of_its_answers():
    weights = LOGITS.at[:, 0].add(100.0).at[2, 4].add(200.0)  # certain of 0, 0 and 4
    state = algorithms.policy_state(weights, algorithms.DESCENT, seed=0)
    found = judged.judging(policies.TABULAR, JUDGES, OPPONENT)(state)
    chances = np.asarray(jax.nn.log_softmax(LOGITS))
    kl = -np.mean([chances[0, 0], chances[1, 0], chances[2, 4]])
    wanted = by_hand([0, 0, 4]) | {"kl": kl}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted, rel=1e-5)


def test_several_answers_to_a_prompt_are_averaged_over():
    answers = [[3, 1], [1, 4], [5, 5]]
    found = judged.answers_judged(JUDGES, OPPONENT, jnp.array(answers))
    one, other = (by_hand([row[place] for row in answers]) for place in (0, 1))
    assert found == pytest.approx({name: (one[name] + other[name]) / 2 for name in one})
    state = algorithms.policy_state(LOGITS, algorithms.DESCENT, seed=0)
    many = judged.judging(policies.TABULAR, JUDGES, OPPONENT, num_samples=2000)(state)
    chances = np.exp(np.asarray(jax.nn.log_softmax(LOGITS)))
    wanted = np.mean(np.sum(chances * np.asarray(TABLES["one"]), axis=1))
    assert float(many["one"]) == pytest.approx(wanted, abs=0.1)
    assert float(many["kl"]) == pytest.approx(0, abs=1e-6)


def test_the_best_of_n_is_chosen_by_one_judge_and_seen_by_all():
    key, ns = jax.random.key(3), (1, 2, 5)
    found = judged.best_of_n_judged(policies.TABULAR, JUDGES, OPPONENT, "two", ns, key)
    answers = np.asarray(policies.TABULAR.sample(LOGITS, PROMPTS, key, 5)[0])
    for place, n in enumerate(ns):
        scores = np.take_along_axis(np.asarray(TABLES["two"]), answers[:, :n], axis=1)
        best = answers[np.arange(3), scores.argmax(axis=1)]
        wanted = by_hand(best.tolist())
        assert {k: v[place] for k, v in found.items()} == pytest.approx(wanted, rel=1e-5)


def test_given_answers_are_judged_and_ties_count_half():
    answers = [3, 1, 5]
    found = judged.answers_judged(JUDGES, OPPONENT, jnp.array(answers)[:, None])
    assert found == pytest.approx(by_hand(answers))
    assert float(rewards.wins(jnp.array([[1.0]]), jnp.array([[1.0, 0, 2, 0]]))) == 0.625
