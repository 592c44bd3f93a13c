"""`generate`: its text and log-probabilities against the model run on whole sequences."""

import dataclasses
import gc
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from matchbook.gemma import Gemma2Config, Transformer, generation
from matchbook.gemma.generation import generate, unstacked
from matchbook.gemma.rollout import advance, allowed_tokens, rollout, start
from matchbook.gemma.sampling import row_keys, sampling
from matchbook.gemma.streaming import stream, text_pieces

CONFIG = Gemma2Config(
    vocab_size=29,
    embed_dim=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_dim=24,
    sliding_window=4,
    attention_softcap=5.0,
    final_softcap=8.0,
    max_context=64,
)
NEW = 30
PROMPTS = [[5, 1, 7, 20, 3, 3, 9, 11, 2], [4], [8, 15, 6]]
DRAWN = {"temperature": 1.3, "top_k": 20, "top_p": 0.95, "num_tokens": 25, "stop_tokens": [7, 9]}
TRACES = []


@pytest.fixture(scope="module", autouse=True)
def _counted_programs():
    """The module's programs, with their traces counted."""

    def counted(function):
        def traced(*args, **options):
            TRACES.append(function.__name__)
            return function(*args, **options)

        return traced

    patch = pytest.MonkeyPatch()
    names = ("num_new", "num_tokens")
    patch.setattr(generation, "_start", jax.jit(counted(start), static_argnames=names))
    patch.setattr(
        generation,
        "_advance",
        jax.jit(counted(advance), static_argnames=names[1], donate_argnums=1),
    )
    yield
    patch.undo()


def new_model(config=CONFIG, seed=0):
    model = Transformer(config, rngs=nnx.Rngs(seed))
    nnx.update(model, jax.tree.map(lambda w: 2 * w, nnx.state(model)))
    return model


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture(scope="module")
def logits_of(model):
    """Float64 logits after each token of one list, the model run on all of it at once."""
    run = jax.jit(lambda model, tokens: model(tokens))

    def logits_of(tokens):
        row = np.zeros((1, 48), np.int32)
        row[0, : len(tokens)] = tokens
        return np.asarray(run(model, jnp.asarray(row)), np.float64)[0, : len(tokens)]

    return logits_of


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def continuations(out):
    """(prompt, tokens up to the length, their log-probabilities) of each sample."""
    for (row, sample), length in np.ndenumerate(np.asarray(out.lengths)):
        tokens = np.asarray(out.tokens[row, sample])
        log_probs = np.asarray(out.log_probs[row, sample])
        assert (tokens[length:] == 0).all()
        assert (log_probs[length:] == 0).all()
        yield PROMPTS[row], tokens[:length].tolist(), log_probs[:length]


@pytest.fixture(scope="module")
def greedy(model):
    return generate(model, PROMPTS, max_new_tokens=NEW)


def test_greedy_text_is_the_argmax_of_the_whole_sequence(greedy, logits_of):
    assert greedy.tokens.shape == greedy.log_probs.shape == (3, 1, NEW)
    assert greedy.tokens.dtype == jnp.int32
    assert greedy.log_probs.dtype == jnp.float32
    assert greedy.lengths.tolist() == [[NEW]] * 3
    for prompt, tokens, log_probs in continuations(greedy):
        logits = logits_of(prompt + tokens)[len(prompt) - 1 : -1]
        assert tokens == logits.argmax(-1).tolist()
        expected = log_softmax(logits)[range(NEW), tokens]
        np.testing.assert_allclose(log_probs, expected, atol=1e-4)


@pytest.fixture(scope="module")
def drawn(model):
    return generate(model, PROMPTS, max_new_tokens=NEW, num_samples=4, seed=3, **DRAWN)


def test_drawn_log_probs_are_those_of_the_training_forward_pass(drawn, logits_of):
    """Heated, cut to top-k and top-p and kept off the padding, yet reported as the model's own."""
    for prompt, tokens, log_probs in continuations(drawn):
        logits = logits_of(prompt + tokens)[len(prompt) - 1 : -1]
        expected = log_softmax(logits)[range(len(tokens)), tokens]
        np.testing.assert_allclose(log_probs, expected, atol=1e-4)
        ranks = (logits[:, :25] > logits[range(len(tokens)), tokens][:, None]).sum(-1)
        assert ranks.max() < 20
        assert max(tokens) < 25


def test_rows_stop_at_a_stop_token_and_keep_it(drawn):
    ends = []
    for _, tokens, _ in continuations(drawn):
        stops = [place for place, token in enumerate(tokens) if token in (7, 9)]
        assert stops in ([], [len(tokens) - 1])
        ends.append(len(stops))
    assert sum(ends) > 0  # some row stopped before the end
    assert len(set(np.asarray(drawn.lengths).ravel().tolist())) > 1


def test_same_seed_same_text_and_another_seed_another(model, drawn):
    again = generate(model, PROMPTS, max_new_tokens=NEW, num_samples=4, seed=3, **DRAWN)
    np.testing.assert_array_equal(again.tokens, drawn.tokens)
    np.testing.assert_array_equal(again.log_probs, drawn.log_probs)
    other = generate(model, PROMPTS, max_new_tokens=NEW, num_samples=4, seed=4, **DRAWN)
    assert (other.tokens != drawn.tokens).any(-1).all()
    texts = {tuple(row) for row in np.asarray(drawn.tokens).reshape(12, NEW).tolist()}
    assert len(texts) == 12  # no two rows drew alike


def test_a_rows_text_does_not_depend_on_its_batch(model, drawn):
    """Another row beside, fewer samples, another bucket: the rows that stay say what they said."""
    prompts = [*PROMPTS[:2], [3] * 17]
    other = generate(model, prompts, max_new_tokens=NEW, num_samples=2, seed=3, **DRAWN)
    np.testing.assert_array_equal(other.tokens[:2], drawn.tokens[:2, :2])
    np.testing.assert_allclose(other.log_probs[:2], drawn.log_probs[:2, :2], atol=1e-5)


def test_prompts_of_a_bucket_and_other_settings_do_not_compile_again(model, drawn):
    before = len(TRACES)
    for prompts in (PROMPTS[::-1], [[1], [2, 3], [4] * 16]):
        options = DRAWN | {"temperature": 0.7, "top_k": 5, "top_p": 0.5}
        generate(model, prompts, max_new_tokens=NEW, num_samples=4, **options)
    generate(new_model(seed=1), PROMPTS, max_new_tokens=NEW, num_samples=4, **DRAWN)
    assert len(TRACES) == before


def test_rollout_inside_a_step_of_another_is_generate(model, drawn):
    """As a trainer calls it: weights of the moment, one program, no lists."""
    graph, weights = nnx.split(model)
    settings = sampling(**{k: v for k, v in DRAWN.items() if k != "num_tokens"})
    arrays = generation.pad(PROMPTS, NEW, 64, 29)

    @jax.jit
    def step(weights, tokens, positions, segments, key):
        keys = row_keys(key, 3, 4)
        out = rollout(
            nnx.merge(graph, weights),
            tokens,
            positions,
            segments,
            keys,
            settings,
            num_new=NEW,
            num_tokens=25,
        )
        return out, jnp.sum(out.log_probs)

    out, _ = step(weights, *arrays, jax.random.key(3))
    np.testing.assert_array_equal(out.tokens, drawn.tokens)
    np.testing.assert_array_equal(out.lengths, drawn.lengths)
    np.testing.assert_allclose(out.log_probs, drawn.log_probs, atol=1e-5)


def test_a_prompt_is_prefilled_once_however_many_samples(model):
    """Only after it are rows repeated: the tokens embedded are those of the prompts."""
    arrays = generation.pad(PROMPTS, NEW, 64, 29)

    def flops(samples):
        keys = row_keys(jax.random.key(0), 3, samples)
        program = jax.jit(start, static_argnames=("num_new", "num_tokens"))
        lowered = program.lower(model, *arrays, keys, sampling(), num_new=NEW, num_tokens=29)
        return lowered.cost_analysis()["flops"]

    assert flops(16) < 1.1 * flops(1)


def test_a_stream_is_generate_in_pieces(model, greedy):
    whole = greedy.tokens[0, 0].tolist()
    never = next(token for token in range(29) if token not in whole)
    run = partial(stream, model, PROMPTS[0], max_new_tokens=NEW, every=7)
    pieces = list(run(stop_tokens=[never]))
    assert [len(piece) for piece in pieces] == [1, 7, 7, 7, 7, 1]
    assert list(itertools.chain(*pieces)) == whole
    stopped = list(run(stop_tokens=whole[3:4]))
    assert list(itertools.chain(*stopped)) == whole[: whole.index(whole[3]) + 1]
    assert all(stopped)


def test_the_loop_ends_when_every_row_has_stopped(model, greedy):
    whole = greedy.tokens[0, 0].tolist()
    settings = (1, 0.0, None, None, whole[3:4], 0, None)
    state, run_to = generation.begin(model, PROMPTS[:1], NEW, *settings)
    assert int(run_to(state, NEW).step) == whole.index(whole[3]) + 1


def test_a_stream_of_no_tokens_at_a_time_is_refused(model):
    with pytest.raises(ValueError, match="every: expected at least 1 token, got 0"):
        next(stream(model, PROMPTS[0], max_new_tokens=NEW, every=0))


def test_text_comes_when_its_bytes_are_complete():
    data = "aé€ b".encode()

    def decode(ids):
        return bytes(ids).decode(errors="replace")

    pieces = list(text_pieces([[byte] for byte in data], decode))
    assert pieces == ["a", "é", "€", " ", "b"]
    assert list(text_pieces([[97], list("é".encode())[:1]], decode)) == ["a", "\ufffd"]
    assert list(text_pieces([], decode)) == []


def test_unstacked_weights_are_kept_while_the_models_arrays_live():
    model = new_model(seed=5)
    first = unstacked(model)
    assert unstacked(model) is first
    graph, weights = nnx.split(model)
    assert unstacked(nnx.merge(graph, weights)) is first  # the same arrays
    narrow = dataclasses.replace(CONFIG, sliding_window=2)
    other = nnx.merge(nnx.split(nnx.eval_shape(lambda: new_model(narrow)))[0], weights)
    assert unstacked(other).config.value.sliding_window == 2  # the same arrays, another model
    nnx.update(model, jax.tree.map(lambda w: w + 1, nnx.state(model)))
    changed = unstacked(model)
    gate = model.pairs.global_layer.mlp.gate[...][0]
    np.testing.assert_array_equal(changed.layers[1].gate.matrix, gate.T)
    del model, other, weights, changed, first
    gc.collect()
    assert generation._kept == []


def test_google_s_padding_is_left_out_by_default():
    assert allowed_tokens(Gemma2Config.gemma2_2b(), None) == 256_000
    assert allowed_tokens(CONFIG, None) == 29
    assert allowed_tokens(CONFIG, 7) == 7


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "prompts: expected at least one list"),
        ([[1], []], {}, r"prompts\[1\]: expected at least one token"),
        ([[1], [2, 29]], {}, r"prompts\[1\]: expected token ids from 0 to 28, got 29"),
        ([[-1]], {}, r"prompts\[0\]: .* got -1"),
        ([[3, 4]], {"num_tokens": 4}, r"prompts\[0\]: .* from 0 to 3, got 4"),
        ([[1] * 60], {}, r"max_context - max_new_tokens = 64 - 5 tokens, got 60: cut"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens: expected at least 1, got 0"),
        ([[1]], {"num_samples": 0}, "num_samples: expected at least 1, got 0"),
        ([[1]], {"num_tokens": 30}, "num_tokens: expected 1 to vocab_size = 29, got 30"),
        ([[1]], {"stop_tokens": [40]}, "stop_tokens: expected token ids from 0 to 28, got 40"),
        ([[1]], {"temperature": -1}, "temperature: expected"),
        ([[1]], {"top_p": 1.2}, "top_p: expected"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_compiles(model, prompts, options, message):
    before = len(TRACES)
    with pytest.raises(ValueError, match=message):
        generate(model, prompts, **{"max_new_tokens": 5, **options})
    assert len(TRACES) == before


@pytest.mark.parametrize("ids", [5, [1.5], "text", [[1, 2]], [True]], ids=str)
def test_what_is_not_a_list_of_ids_is_refused(ids):
    """Without the run-time checks of the tests: a user has none."""
    check = getattr(generation._check_ids, "__wrapped__", generation._check_ids)
    with pytest.raises(ValueError, match="a prompt: expected a list of token ids, got"):
        check("a prompt", ids, 29)
