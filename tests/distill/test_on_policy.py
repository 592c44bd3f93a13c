"""On-policy distillation against every answer that can be written, one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from scipy.special import log_softmax

from matchbook import corpus, distill
from matchbook.distill.on_policy import OnPolicyState
from matchbook.gemma import Gemma2Config

VOCAB, STOP, NEW, ROWS = 4, 1, 3, 1024
CONFIG = Gemma2Config(
    vocab_size=VOCAB,
    embed_dim=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=16,
    sliding_window=3,
)
PROMPT = [2, 3, 0]
WRITING = distill.Writing(num_new=NEW, stop_tokens=(STOP,))
SGD = optax.sgd(1.0)  # weights change by the gradient
# Half of the time of this file would go into making programs fast that run once.


@pytest.fixture(scope="module")
def model():
    """The student: its table enlarged, so that its answers are far from uniform."""
    graph, weights = distill.new_model(CONFIG, seed=0)
    weights["embedder"]["table"] = 2.0 * weights["embedder"]["table"]
    return graph, weights


@pytest.fixture(scope="module")
def teacher(model):
    return distill.frozen_teacher(model[0], distill.new_model(CONFIG, seed=5)[1])


def prompts(rows=ROWS, answer=(0,)):
    return jax.tree.map(jnp.asarray, distill.dialogues([(PROMPT, answer)] * rows, 4, NEW))


def all_answers():
    """Every answer: to the first stop, or of `NEW` tokens without one."""
    for length in range(1, NEW + 1):
        for answer in itertools.product(range(VOCAB), repeat=length):
            stops = [token == STOP for token in answer]
            if not any(stops[:-1]) and (stops[-1] or length == NEW):
                yield list(answer)


def exact(model, teacher):
    """Per answer [answers]: log-probability, sum of per-token KL(student || teacher), length."""
    answers = list(all_answers())
    tokens = np.zeros((len(answers), len(PROMPT) + NEW), np.int32)
    for row, answer in zip(tokens, answers, strict=True):
        row[: len(PROMPT) + len(answer)] = PROMPT + answer
    lengths = np.array([len(answer) for answer in answers])
    counts = (np.arange(NEW) < lengths[:, None]).astype(np.float32)
    log_teacher = jax.nn.log_softmax(nnx.merge(model[0], teacher.args[0])(jnp.asarray(tokens)))

    def of(weights):
        log_probs = jax.nn.log_softmax(nnx.merge(model[0], weights)(jnp.asarray(tokens)))
        kl = jnp.sum(jnp.exp(log_probs) * (log_probs - log_teacher), -1)
        here = slice(len(PROMPT) - 1, len(PROMPT) - 1 + NEW)
        following = jnp.asarray(tokens[:, len(PROMPT) :, None])
        chosen = jnp.take_along_axis(log_probs[:, here], following, -1)[..., 0]
        return jnp.sum(chosen * counts, 1), jnp.sum(kl[:, here] * counts, 1)

    return of, jnp.asarray(lengths, jnp.float32)


def test_the_gradient_is_that_of_all_answers_weighed_by_their_chances(model, teacher):
    of, lengths = exact(model, teacher)

    def loss(weights, through_sampling):
        log_p, kl = of(weights)
        p = jnp.exp(log_p if through_sampling else jax.lax.stop_gradient(log_p))
        return jnp.sum(p * kl) / jnp.sum(p * lengths)

    value_and_grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    value, gradient = value_and_grad(model[1], False)
    assert jnp.sum(jnp.exp(of(model[1])[0])) == pytest.approx(1.0, abs=1e-5)
    expected = ravel_pytree(gradient)[0]
    with_reinforce = ravel_pytree(value_and_grad(model[1], True)[1])[0]

    step = jax.jit(distill.on_policy_step(model[0], SGD, teacher, WRITING))
    found, losses = [], []
    for seed in range(4):
        state, metrics = step(distill.on_policy_state(model[1], SGD, seed), prompts())
        moved = jax.tree.map(jnp.subtract, model[1], state.weights)
        found.append(ravel_pytree(moved)[0])
        losses.append(float(metrics["loss"]))
    found, size = jnp.stack(found), jnp.linalg.norm(expected)
    noise = jnp.linalg.norm(found[:2].mean(0) - found[2:].mean(0)) / 2 / size
    error = jnp.linalg.norm(found.mean(0) - expected) / size
    assert noise < 0.05
    assert error < 3 * noise
    assert jnp.linalg.norm(with_reinforce - expected) / size > 10 * noise  # the test can tell
    spread = np.std(losses, ddof=1) / 2
    assert abs(np.mean(losses) - value) < 5 * spread + 1e-4


def test_answers_are_written_with_their_chances_and_end_at_the_stop(model, teacher):
    of, _ = exact(model, teacher)
    chances = np.exp(np.asarray(jax.jit(of)(model[1])[0], np.float64))
    write = jax.jit(distill.write_answers, static_argnums=(0, 4))
    rows = write(*model, prompts(), jax.random.key(3), WRITING)
    seen = dict.fromkeys(map(tuple, all_answers()), 0)
    for tokens, segments in zip(np.asarray(rows.tokens), np.asarray(rows.segments), strict=True):
        seen[tuple(tokens[4:][segments[4:] != 0].tolist())] += 1  # a KeyError for any other
    expected = chances * ROWS
    chi_square = np.sum((np.array(list(seen.values())) - expected) ** 2 / expected)
    free = len(chances) - 1
    assert chi_square < free + 5 * np.sqrt(2 * free)
    # What counts is the answer, its stop included, and nothing after it.
    tokens, where = np.asarray(rows.tokens), np.asarray(rows.where)
    for row in range(200):
        answer = tokens[row, 4:][np.asarray(rows.segments)[row, 4:] != 0]
        np.testing.assert_array_equal(np.roll(tokens[row], -1)[where[row]], answer)
        assert STOP not in answer[:-1]


def dense(model, weights, rows, name):
    """The divergence by NumPy, in float64, mean over the tokens of answers."""
    p, q = (
        log_softmax(np.asarray(nnx.merge(model[0], w)(*rows[:3]), np.float64), -1)
        for w in (weights, model[1])
    )
    if name == "backward_kl":
        values = (np.exp(q) * (q - p)).sum(-1)
    else:
        mix = np.log(0.3 * np.exp(p) + 0.7 * np.exp(q))
        values = 0.3 * (np.exp(p) * (p - mix)).sum(-1) + 0.7 * (np.exp(q) * (q - mix)).sum(-1)
    return values[np.asarray(rows.where)].mean()


@pytest.mark.parametrize(("name", "beta"), [("backward_kl", None), ("jensen_shannon", 0.3)])
def test_on_given_answers_the_loss_is_the_divergence_by_numpy(model, teacher, name, beta):
    given = prompts(rows=3, answer=(3, 0))
    options = {"divergence": name, "beta": beta, "student_share": 0}
    step = distill.on_policy_step(model[0], SGD, teacher, WRITING, **options)
    state = distill.on_policy_state(model[1], SGD, 0)
    rows = distill.join_answers(given, given.answers, given.lengths)
    expected = dense(model, teacher.args[0], rows, name)
    _, metrics = jax.jit(step)(state, given)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["answer_length"] == 2
    found = distill.divergence_on(*model, teacher, rows, name, beta)
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_share_of_the_steps_uses_given_answers(model, teacher):
    writing = distill.Writing(num_new=NEW)  # no stop: the student's answers have three tokens
    options = {"student_share": 0.3}
    step = distill.on_policy_step(model[0], optax.sgd(0.0), teacher, writing, **options)
    given = prompts(rows=2)

    @jax.jit
    def lengths(state: OnPolicyState):
        def one(state, _):
            state, metrics = step(state, given)
            return state, metrics["answer_length"]

        return jax.lax.scan(one, state, length=200)[1]

    found = np.asarray(lengths(distill.on_policy_state(model[1], optax.sgd(0.0), 0)))
    assert set(found) == {1.0, 3.0}
    assert abs((found == 3).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 200)


def test_what_cannot_be_done_is_refused(model, teacher):
    def make(writing=WRITING, **options):
        return distill.on_policy_step(model[0], SGD, teacher, writing, **options)

    with pytest.raises(ValueError, match=r"student_share: expected a number in \[0, 1\], got 2"):
        make(student_share=2)
    with pytest.raises(ValueError, match="num_new: expected at least 1"):
        make(distill.Writing(num_new=0))
    with pytest.raises(ValueError, match="temperature: expected 0"):
        make(distill.Writing(num_new=1, temperature=-1))
    state = distill.on_policy_state(model[1], SGD, 0)
    rows = corpus.Rows(*prompts(rows=2)[:3])
    with pytest.raises(ValueError, match="expected Dialogues"):
        jax.eval_shape(make(student_share=0.5), state, rows)
    with pytest.raises(ValueError, match="expected answers in 2 columns"):
        jax.eval_shape(make(distill.Writing(2), student_share=0), state, prompts(rows=2))
