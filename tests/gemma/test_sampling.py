"""Sampling against probabilities worked out token by token; draws against them by chi-square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from matchbook.gemma import sampling as library
from matchbook.gemma.sampling import sampling

choose = jax.jit(library.choose, static_argnums=3)
restrict = jax.jit(library.restrict)
row_keys = jax.jit(library.row_keys, static_argnums=(1, 2))
VOCAB = 12
LOGITS = np.random.default_rng(0).normal(0, 1.5, (3, VOCAB)).astype(np.float32)
GRID = [
    {"temperature": 1.0},
    {"temperature": 0.5},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_k": 4},
    {"temperature": 2.0, "top_k": 100},
    {"temperature": 1.0, "top_p": 0.01},
    {"temperature": 1.0, "top_p": 0.7},
    {"temperature": 1.7, "top_p": 0.95},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.8, "top_k": 5, "top_p": 0.6},
    {"temperature": 1.5, "top_k": 3, "top_p": 0.9},
]


def by_hand(logits, temperature, top_k=None, top_p=None):
    """Probabilities of one row: heat, keep the k largest, then add the largest up to top_p."""
    probabilities = np.exp(logits.astype(np.float64) / temperature)
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    kept = order[: top_k or len(order)]
    if top_p is not None:
        total, mass, short = sum(probabilities[kept]), 0.0, []
        for token in kept:
            short.append(token)
            mass += probabilities[token] / total
            if mass >= top_p:
                break
        kept = short
    result = np.zeros(len(logits))
    result[kept] = probabilities[kept] / sum(probabilities[kept])
    return result


@pytest.mark.parametrize("options", GRID, ids=str)
def test_restricted_probabilities_are_those_worked_out_by_hand(options):
    found = jax.nn.softmax(restrict(jnp.asarray(LOGITS), sampling(**options)), axis=-1)
    expected = [by_hand(row, **options) for row in LOGITS]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert ((np.asarray(found) > 0) == (np.asarray(expected) > 0)).all()


def test_tokens_as_likely_as_the_last_of_a_set_belong_to_it():
    tied = jnp.asarray([[1.0, 3.0, 1.0, 1.0, 0.0]])
    for options in ({"top_k": 2}, {"top_p": 0.75}):
        kept = jnp.isfinite(restrict(tied, sampling(1.0, **options)))
        assert kept.tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize("options", [GRID[0], GRID[9]], ids=str)
def test_draws_have_these_probabilities(options):
    """Chi-square of 4,000 draws over the tokens that may come; no other comes at all."""
    draws = 4000
    keys = row_keys(jax.random.key(1), 1, draws)[0]
    rows = jnp.tile(jnp.asarray(LOGITS[:1]), (draws, 1))
    tokens, _ = choose(rows, keys, sampling(**options), VOCAB)
    counts = np.bincount(tokens, minlength=VOCAB)
    expected = by_hand(LOGITS[0], **options)
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    assert stats.chisquare(counts[possible], draws * expected[possible]).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 0.3, 5.0])
def test_log_probs_are_the_models_own_whatever_the_draw(temperature):
    keys = row_keys(jax.random.key(0), 3, 1)[:, 0]
    settings = sampling(temperature, top_k=4, top_p=0.9)
    tokens, log_probs = choose(jnp.asarray(LOGITS), keys, settings, VOCAB)
    wide = LOGITS.astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    np.testing.assert_allclose(log_probs, expected[range(3), np.asarray(tokens)], atol=1e-6)
    if temperature == 0:
        assert tokens.tolist() == LOGITS.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_padding_of_the_table_is_never_chosen_but_stays_in_the_normaliser(temperature):
    logits = np.zeros((200, VOCAB), np.float32)
    logits[:, 9:] = 6.0  # rows that no token has
    keys = row_keys(jax.random.key(0), 200, 1)[:, 0]
    tokens, log_probs = choose(jnp.asarray(logits), keys, sampling(temperature), 9)
    assert set(tokens.tolist()) == ({0} if temperature == 0 else set(range(9)))
    np.testing.assert_allclose(log_probs, -np.log(9 + 3 * np.exp(6.0)), rtol=1e-6)


def test_a_row_has_the_same_key_in_every_batch():
    large = jax.random.key_data(row_keys(jax.random.key(7), 4, 5))
    small = jax.random.key_data(row_keys(jax.random.key(7), 2, 3))
    np.testing.assert_array_equal(large[:2, :3], small)
    assert len({tuple(key) for key in large.reshape(20, -1).tolist()}) == 20


def test_settings_without_effect_are_none():
    assert sampling(0.0, top_k=3, top_p=0.5)[:3] == (None, None, None)
    assert sampling(1.0, top_p=1.0).top_p is None
    assert sampling(stop_tokens=[1, 107]).stop_tokens.tolist() == [1, 107]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature: expected 0 .* got -0.1"),
        ({"temperature": float("nan")}, "temperature: expected"),
        ({"temperature": float("inf")}, "temperature: expected"),
        ({"temperature": 1.0, "top_k": 0}, "top_k: expected at least 1"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p: expected a probability in \(0, 1\]"),
        ({"temperature": 0.0, "top_p": 1.5}, "top_p: expected"),
        ({"temperature": 1.0, "top_p": float("nan")}, "top_p: expected"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sampling(**options)
