"""Log-probabilities of token sequences against a loop, and sampling against enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import chi2

from matchbook.bond import enumerable_lm, sequences
from matchbook.gemma import Gemma2Config

VOCAB, STOP, NEW = 4, 3, 3
CONFIG = Gemma2Config(
    vocab_size=VOCAB,
    embed_dim=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=16,
    sliding_window=2,
)
PROMPTS = sequences.token_prompts([[1, 2], [0], [2, 0, 1]])


@pytest.fixture(scope="module")
def model():
    """The static part, weights far from uniform, and a compiled forward pass."""
    graph, weights = enumerable_lm.new_model(CONFIG, seed=0)
    weights = jax.tree.map(lambda w: 2 * w, weights)

    def logits(weights, tokens):
        return nnx.merge(graph, weights)(tokens)

    return graph, weights, jax.jit(logits)


def by_loop(logits, weights, prompt, answer, stops):
    """The sum over the answer's tokens, one forward pass a token, stopping after a stop."""
    total = 0.0
    for place, token in enumerate(answer):
        text = np.zeros(8, np.int32)  # causal: what is behind plays no part
        seen = [*prompt, *answer[:place]]
        text[: len(seen)] = seen
        row = np.asarray(logits(weights, jnp.asarray(text)[None])[0, len(seen) - 1], float)
        total += row[token] - np.log(np.exp(row).sum())
        if token in stops:
            break
    return total


def lists(prompts):
    return [
        [int(t) for t, s in zip(*row) if s]
        for row in zip(np.asarray(prompts.tokens), np.asarray(prompts.segments))
    ]


@pytest.mark.parametrize("stops", [(), (STOP,), (STOP, 0)])
def test_log_prob_is_the_sum_over_the_answers_own_tokens(model, stops):
    graph, weights, logits = model
    policy = sequences.transformer_policy(graph, NEW, stops)
    answers = np.random.default_rng(1).integers(0, VOCAB, (3, 5, NEW))
    answers[0, 0] = [STOP, 1, 2]
    answers[0, 1] = [1, STOP, STOP]
    compiled = jax.jit(policy.log_prob)
    found = np.asarray(compiled(weights, PROMPTS, jnp.asarray(answers)))
    for row, prompt in enumerate(lists(PROMPTS)):
        for sample in range(5):
            expected = by_loop(logits, weights, prompt, answers[row, sample].tolist(), stops)
            assert found[row, sample] == pytest.approx(expected, abs=2e-5)


def test_what_counts_ends_with_the_first_stop():
    answers = jnp.array([[3, 1, 3], [1, 3, 3], [1, 2, 0], [0, 3, 1]])
    found = sequences.counted(answers, (3, 0)).astype(int).tolist()
    assert found == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert sequences.counted(answers, ()).all()


def test_answers_with_a_stop_are_a_distribution_that_sampling_follows(model):
    """All different answers, of 1 to 3 tokens: their chances sum to one and meet the counts."""
    graph, weights, _ = model
    policy = sequences.transformer_policy(graph, NEW, (STOP,))
    distinct = set()
    for tokens in itertools.product(range(VOCAB), repeat=NEW):
        end = tokens.index(STOP) + 1 if STOP in tokens else NEW
        distinct.add(tokens[:end] + (0,) * (NEW - end))
    distinct = sorted(distinct)
    listed = jnp.broadcast_to(jnp.array(distinct), (3, len(distinct), NEW))
    log_prob = jax.jit(policy.log_prob)
    log_probs = np.asarray(log_prob(weights, PROMPTS, listed), float)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-5)

    number = 4000
    draw = jax.jit(policy.sample, static_argnums=3)
    answers, drawn = draw(weights, PROMPTS, jax.random.key(0), number)
    place = {answer: i for i, answer in enumerate(distinct)}
    for row in range(3):
        indices = [place[tuple(answer)] for answer in np.asarray(answers[row]).tolist()]
        np.testing.assert_allclose(drawn[row], log_probs[row][indices], atol=2e-5)
        expected = number * np.exp(log_probs[row])
        counts = np.bincount(indices, minlength=len(distinct))
        rare = expected < 5  # one cell together: chi-square wants no smaller ones
        cells = np.append(expected[~rare], expected[rare].sum())
        found = np.append(counts[~rare], counts[rare].sum())
        assert len(cells) > 8
        assert chi2.sf(np.sum((found - cells) ** 2 / cells), len(cells) - 1) > 1e-4


def test_the_prompt_passes_no_likelihood_but_a_gradient(model):
    """The sum's gradient is that of the loop's value, by a finite difference along itself."""
    graph, weights, _ = model
    policy = sequences.transformer_policy(graph, NEW, (STOP,))
    answers = jnp.array([[[1, 2, 0]], [[0, STOP, 0]], [[2, 2, 1]]])

    def total(weights):
        return jnp.sum(policy.log_prob(weights, PROMPTS, answers))

    value_and_grad = jax.jit(jax.value_and_grad(total))
    _, gradient = value_and_grad(weights)
    squared = sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradient))
    step = 1e-3 / np.sqrt(squared)
    ahead, behind = (
        float(value_and_grad(jax.tree.map(lambda w, g, s=s: w + s * g, weights, gradient))[0])
        for s in (step, -step)
    )
    assert (ahead - behind) / (2 * step) == pytest.approx(squared, rel=5e-3)


def test_prompts_are_padded_on_the_left():
    np.testing.assert_array_equal(PROMPTS.tokens, [[0, 1, 2], [0, 0, 0], [2, 0, 1]])
    np.testing.assert_array_equal(PROMPTS.segments, [[0, 1, 1], [0, 0, 1], [1, 1, 1]])
    np.testing.assert_array_equal(PROMPTS.positions, [[0, 0, 1], [0, 0, 0], [0, 1, 2]])
    np.testing.assert_array_equal(PROMPTS.repeat(2).tokens[:, 2], [2, 2, 0, 0, 1, 1])
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        sequences.token_prompts([[1], []])


def test_answers_of_one_prompt_do_not_see_each_other(model):
    """Together or one by one: equal values and, the prompt being shared, equal gradients."""
    graph, weights, _ = model
    policy = sequences.transformer_policy(graph, NEW, (STOP,))
    answers = jnp.asarray(np.random.default_rng(2).integers(0, VOCAB, (3, 4, NEW)))
    scale = jnp.arange(12.0).reshape(3, 4)

    def together(weights):
        found = policy.log_prob(weights, PROMPTS, answers)
        return jnp.sum(scale * found), found

    def alone(weights):
        single = [policy.log_prob(weights, PROMPTS, answers[:, i : i + 1]) for i in range(4)]
        found = jnp.concatenate(single, axis=1)
        return jnp.sum(scale * found), found

    (together, alone) = (jax.jit(jax.grad(f, has_aux=True))(weights) for f in (together, alone))
    np.testing.assert_allclose(together[1], alone[1], atol=1e-5)
    for one, other in zip(jax.tree.leaves(together[0]), jax.tree.leaves(alone[0])):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_seeds_may_be_mapped_over(model):
    graph, weights, _ = model
    policy = sequences.transformer_policy(graph, NEW, (STOP,))
    keys = jax.random.split(jax.random.key(3), 2)

    def draw(key):
        return policy.sample(weights, PROMPTS, key, 2)

    mapped = jax.jit(jax.vmap(draw))(keys)
    single = jax.jit(draw)
    for row, key in enumerate(keys):
        answers, log_probs = single(key)
        np.testing.assert_array_equal(mapped[0][row], answers)
        np.testing.assert_allclose(mapped[1][row], log_probs, atol=1e-5)


def test_there_are_answers_to_every_prompt(model):
    graph, weights, _ = model
    with pytest.raises(ValueError, match="expected as many rows as prompts, 6, got"):
        sequences.answer_streams(
            nnx.merge(graph, weights), PROMPTS.repeat(2), jnp.zeros((3, 2, NEW), jnp.int32)
        )


def test_lists_of_tokens_become_answers():
    found = sequences.token_answers([[1, 2, STOP], [STOP]], NEW)
    np.testing.assert_array_equal(found, [[1, 2, STOP], [STOP, 0, 0]])
    for wrong in ([], [1] * (NEW + 1)):
        with pytest.raises(ValueError, match=f"answer 1: expected 1 to {NEW} tokens"):
            sequences.token_answers([[1], wrong], NEW)


def test_pairs_of_lists_become_rows():
    rows = sequences.answered_prompts([([1], [2, STOP]), ([2, 0], [1])], width=3, num_new=NEW)
    np.testing.assert_array_equal(rows.tokens, [[0, 0, 1], [0, 2, 0]])
    np.testing.assert_array_equal(rows.prompts.segments, [[0, 0, 1], [0, 1, 1]])
    np.testing.assert_array_equal(rows.answers, [[2, STOP, 0], [1, 0, 0]])
    with pytest.raises(ValueError, match="prompt 1: expected at most 1 tokens, got 2"):
        sequences.token_prompts([[1], [2, 0]], width=1)
