"""Prompts and answers: the rows by hand, and fine-tuning's loss against NumPy."""

import inspect
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.special import log_softmax

from matchbook import corpus, distill
from matchbook.gemma import Gemma2Config, training_chat

CONFIG = Gemma2Config(
    vocab_size=19,
    embed_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=32,
    sliding_window=4,
)
PAIRS = [([2, 5, 6], [7, 1]), ([2, 8], [9, 10, 11, 1]), ([2], [1]), ([2, 3, 4, 5], [12, 1])]
TIME = 12


@pytest.fixture(scope="module")
def tokenizer():
    return corpus.train_tokenizer([inspect.getsource(textwrap)], 384)


@pytest.fixture(scope="module")
def model():
    return distill.new_model(CONFIG, seed=0)


@pytest.fixture(scope="module")
def sft(model):
    """By gradient descent of rate 1, so that weights change by the gradient."""
    step = jax.jit(distill.sft_step(model[0], optax.sgd(1.0)))
    return lambda rows: step(distill.train_state(model[1], optax.sgd(1.0)), as_arrays(rows))


def as_arrays(rows):
    return jax.tree.map(jnp.asarray, rows)


def test_rows_by_hand():
    rows = distill.answer_rows(PAIRS, TIME)
    zeros = [0] * 11
    np.testing.assert_array_equal(rows.tokens, [[2, 5, 6, 7, 1, 2, 8, 9, 10, 11, 1, 0],
                                                [2, 1, 2, 3, 4, 5, 12, 1, 0, 0, 0, 0]])  # fmt: skip
    np.testing.assert_array_equal(rows.segments[0], [1] * 5 + [2] * 6 + [0])
    np.testing.assert_array_equal(rows.segments[1], [1] * 2 + [2] * 6 + zeros[:4])
    np.testing.assert_array_equal(rows.positions[0], [*range(5), *range(6), 0])
    # The tokens after the marked places are the answers, and no others.
    learned = np.roll(rows.tokens, -1, axis=1)[rows.where]
    np.testing.assert_array_equal(learned, np.concatenate([answer for _, answer in PAIRS]))


def test_what_is_learned_of_a_conversation_is_table_5s_answer(tokenizer):
    conversations = [("What is red?", "A rose."), ("And blue?", "The sky is.")]
    rows = distill.chat_rows(tokenizer, conversations, 96)
    ends = [tokenizer.end_of_turn, tokenizer.eos]
    expected = [tokenizer.encode(answer) + ends for _, answer in conversations]
    learned = np.roll(rows.tokens, -1, axis=1)[rows.where]
    np.testing.assert_array_equal(learned, np.concatenate(expected))
    ids, _ = training_chat(
        tokenizer,
        [
            {"role": "user", "content": conversations[0][0]},
            {"role": "assistant", "content": conversations[0][1]},
        ],
    )
    np.testing.assert_array_equal(rows.tokens[0][rows.segments[0] == 1], ids)


def test_the_loss_of_fine_tuning_against_numpy(model, sft):
    rows = distill.answer_rows(PAIRS, TIME)
    graph, weights = model
    whole = nnx.merge(graph, weights)
    logits = jax.jit(whole.__call__)(*as_arrays(rows)[:3])
    log_probs, total, count = log_softmax(np.asarray(logits, np.float64), -1), 0.0, 0
    for row in range(len(rows.tokens)):
        for place in range(TIME):
            if rows.where[row, place]:
                total -= log_probs[row, place, rows.tokens[row, place + 1]]
                count += 1
    assert count == sum(len(answer) for _, answer in PAIRS)
    assert sft(rows)[1]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_packed_or_apart_it_is_the_same_step(sft):
    apart = [distill.answer_rows([pair], TIME) for pair in PAIRS]
    packed, loss = sft(distill.answer_rows(PAIRS, TIME))
    apart = distill.AnswerRows(*(np.concatenate(parts) for parts in zip(*apart, strict=True)))
    state, other = sft(apart)
    assert other["loss"] == pytest.approx(float(loss["loss"]), rel=1e-5)
    for one, two in zip(jax.tree.leaves(packed), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-6)


def test_dialogues_joined_are_the_pairs_one_to_a_row():
    given = distill.dialogues(PAIRS, prompt_time=5, answer_time=4)
    rows = distill.join_answers(given, given.answers, given.lengths)
    for row, (prompt, answer) in enumerate(PAIRS):
        seen = np.asarray(rows.segments[row]) != 0
        np.testing.assert_array_equal(np.asarray(rows.tokens[row])[seen], prompt + answer)
        length = len(prompt) + len(answer)
        np.testing.assert_array_equal(np.asarray(rows.positions[row])[seen], range(length))
        learned = np.roll(rows.tokens[row], -1)[np.asarray(rows.where[row])]
        np.testing.assert_array_equal(learned, answer)


def test_dialogues_give_the_same_step_as_answer_rows(sft):
    given = distill.dialogues(PAIRS, prompt_time=6, answer_time=6)
    rows = distill.join_answers(given, given.answers, given.lengths)
    _, expected = sft(distill.answer_rows(PAIRS, TIME))
    assert sft(rows)[1]["loss"] == pytest.approx(float(expected["loss"]), rel=1e-5)


@pytest.mark.parametrize(
    ("conversations", "time", "message"),
    [
        ([("a", "b"), ("a", " \n")], 96, r"conversations\[1\]: expected an answer to learn"),
        ([("a", "b"), ("red " * 90, "b")], 96, r"conversations\[1\]: expected prompt and answer"),
        ([], 96, "conversations: expected at least one prompt"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_its_index(tokenizer, conversations, time, message):
    with pytest.raises(ValueError, match=message):
        distill.chat_rows(tokenizer, conversations, time)


def test_bad_pairs_are_refused_with_their_index():
    good = ([2], [1])
    with pytest.raises(ValueError, match=r"pairs\[1\]: expected a token or more of answer"):
        distill.answer_rows([good, ([2], [])], 8)
    with pytest.raises(ValueError, match=r"pairs\[1\]: expected a token or more of prompt"):
        distill.dialogues([good, ([], [1])], 8, 8)
    with pytest.raises(ValueError, match=r"pairs\[1\]: expected an answer of at most 2 tokens"):
        distill.dialogues([good, ([2], [3, 4, 1])], 8, 2)


def test_rows_that_mark_no_answers_are_refused(model):
    step = distill.sft_step(model[0], optax.sgd(1.0))
    state = distill.train_state(model[1], optax.sgd(1.0))
    tokens = jnp.ones((1, 4), jnp.int32)
    with pytest.raises(ValueError, match="expected rows with `where`"):
        jax.eval_shape(step, state, corpus.Rows(tokens, tokens, tokens))
