"""The synthetic language: exact chances against loops and counts, the floor, the stream."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook import corpus
from matchbook.corpus.synthetic import Language
from matchbook.corpus.synthetic.language import FEATURES, MIXING, SHARPNESS

TINY = Language(vocab_size=5, order=2, seed=3)
TIME = 9


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return np.asarray(TINY.sample(jax.random.key(0), 20_000, TIME))


def by_hand(language: Language, tokens: list[int]) -> np.ndarray:
    """The chances after these tokens, in float64, from the formula of the class."""
    random = np.random.default_rng(language.seed)
    embeddings = random.normal(size=(language.vocab_size, FEATURES))
    mixing = random.normal(size=(language.order, FEATURES, FEATURES))
    readout = random.normal(size=(FEATURES, language.vocab_size))
    context = np.zeros(FEATURES)
    for back in range(min(language.order, len(tokens))):
        context += embeddings[tokens[-1 - back]] @ mixing[back]
    hidden = np.tanh(context * MIXING / np.sqrt(language.order * FEATURES))
    logits = hidden @ readout * SHARPNESS / np.sqrt(FEATURES) / language.temperature
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize(
    "language", [TINY, Language(7, 1, 0.5), Language(64, 3, 2.0, seed=1)], ids=repr
)
def test_chances_are_those_of_the_formula_and_sum_to_one(language):
    tokens = np.random.default_rng(0).integers(0, language.vocab_size, (3, 6))
    found = np.exp(language.log_probs(jnp.asarray(tokens)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    expected = [[by_hand(language, row[: t + 1]) for t in range(6)] for row in tokens.tolist()]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-7)


def test_a_sample_has_the_chances_of_the_formula(many):
    """Chi-square of the counts after every context, those cut short by the row's start too."""
    for time in (0, 1, 2, 5, TIME - 1):
        contexts = many[:, max(0, time - 2) : time]
        statistic = degrees = 0.0
        for context in np.unique(contexts, axis=0) if time else [[]]:
            followers = many[(contexts == context).all(axis=1), time]
            expected = by_hand(TINY, list(context)) * len(followers)
            expected = np.full(5, len(followers) / 5) if time == 0 else expected
            statistic += ((np.bincount(followers, minlength=5) - expected) ** 2 / expected).sum()
            degrees += 4
        # Mean `degrees`, standard deviation sqrt(2 degrees): 4.5 of them are chance in 1e5.
        assert abs(statistic - degrees) < 4.5 * np.sqrt(2 * degrees)


def test_only_the_last_tokens_matter():
    first = np.array([[0, 1, 2, 3, 4, 0]])
    other = np.array([[4, 4, 2, 3, 4, 0]])
    far, near = (np.asarray(TINY.log_probs(jnp.asarray(tokens))) for tokens in (first, other))
    np.testing.assert_array_equal(far[:, 3:], near[:, 3:])
    assert (far[:, :3] != near[:, :3]).any(axis=-1).all()


def test_the_entropy_rate_is_the_loss_of_the_oracle(many):
    rate = TINY.entropy_rate(400, TIME, seed=1)
    oracle = np.asarray(TINY.log_probs(jnp.asarray(many)))[:, :-1]
    losses = -np.take_along_axis(oracle, many[:, 1:, None], axis=-1)[..., 0].mean(axis=1)
    error = np.hypot(rate.standard_error, losses.std() / np.sqrt(len(losses)))
    assert abs(rate.mean - losses.mean()) < 4 * error
    # The standard error is right: the same from rows of another sample, and it shrinks.
    rows = np.asarray(TINY.entropies(jnp.asarray(many)))[:, :-1].mean(axis=1)
    np.testing.assert_allclose(rate.standard_error, rows.std() / 20, rtol=0.15)
    assert abs(rate.mean - rows.mean()) < 4 * rate.standard_error


def test_temperature_moves_the_entropy_between_nothing_and_uniform():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 64, (8, 16)))
    levels = [np.asarray(Language(64, 2, t).entropies(tokens)) for t in (0.02, 0.5, 1, 2, 50)]
    assert all((low < high).all() for low, high in itertools.pairwise(levels))
    assert levels[0].mean() < 0.2
    np.testing.assert_allclose(levels[-1], np.log(64), atol=0.01)


def test_the_oracle_is_a_teacher_of_batches():
    rows = TINY.rows(4, TIME, seed=2)
    assert rows.tokens.dtype == np.int32
    np.testing.assert_array_equal(rows.positions, np.arange(TIME) + np.zeros((4, 1)))
    np.testing.assert_array_equal(rows.segments, 1)
    np.testing.assert_array_equal(TINY.oracle(rows), TINY.log_probs(jnp.asarray(rows.tokens)))


def drawn(stream, count: int) -> np.ndarray:
    return np.array([next(stream).tokens for _ in range(count)])


def test_the_stream_is_new_at_every_step_and_goes_on_where_it_was():
    tokens = drawn(TINY.stream(4, TIME, seed=0), 6)
    assert len(np.unique(tokens.reshape(-1, TIME), axis=0)) == 24
    np.testing.assert_array_equal(tokens, drawn(Language(5, 2, 1.0, 3).stream(4, TIME, 0), 6))
    assert (tokens != drawn(TINY.stream(4, TIME, seed=1), 6)).any(axis=(1, 2)).all()
    stream = TINY.stream(4, TIME, seed=0)
    drawn(stream, 2)
    state = json.loads(json.dumps(stream.get_state()))
    resumed = TINY.stream(4, TIME, seed=0)
    drawn(resumed, 5)
    resumed.set_state(state)
    np.testing.assert_array_equal(drawn(resumed, 4), tokens[2:])


def test_limited_rows_come_round_again():
    rows = TINY.rows(4, TIME, seed=0)
    seen = drawn(corpus.batches(rows, 2, seed=0), 4).reshape(2, 4, TIME)
    for one_pass in seen:
        assert sorted(one_pass.tolist()) == sorted(rows.tokens.tolist())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"vocab_size": 1}, "vocab_size: expected at least 2 tokens, got 1"),
        ({"order": 0}, "order: expected at least 1 token of context, got 0"),
        ({"temperature": 0.0}, "temperature: expected a positive number, got 0"),
    ],
)
def test_impossible_languages_are_told(arguments, match):
    with pytest.raises(ValueError, match=match):
        Language(**arguments)


def test_impossible_requests_are_told():
    with pytest.raises(ValueError, match=r"at least 2 rows.* got 1 of 9"):
        TINY.entropy_rate(1, 9, seed=0)
    with pytest.raises(ValueError, match=r"expected what get_state returns.* got {'at': 3}"):
        TINY.stream(1, 2, seed=0).set_state({"at": 3})
