"""The transformer: the same answer however its rows are laid out, scanned, mapped or traced."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from matchbook.gemma import Gemma2Config, Transformer
from matchbook.gemma.layers import rope_rotation

CONFIG = Gemma2Config(
    vocab_size=31,
    embed_dim=16,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_dim=24,
    sliding_window=3,
    max_context=24,
)
TIME = 12
TOKENS = np.random.default_rng(0).integers(1, 31, (2, TIME)).astype(np.int32)
POSITIONS = np.tile(np.arange(TIME, dtype=np.int32), (2, 1))
ONES = np.ones((2, TIME), np.int32)


def new_model(seed=0, **options):
    """Weights of twice the usual size, so that attention is far from uniform."""
    model = Transformer(CONFIG, rngs=nnx.Rngs(seed), **options)
    nnx.update(model, jax.tree.map(lambda w: 2 * w, nnx.state(model)))
    return model


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture(scope="module")
def run(model):
    """The model compiled for [2, TIME], explicit positions and segments; counts its traces."""
    graph, weights = nnx.split(model)

    @jax.jit
    def compiled(weights, tokens, positions, segments):
        run.traces += 1
        return nnx.merge(graph, weights)(tokens, positions, segments)

    def run(tokens=TOKENS, positions=POSITIONS, segments=ONES, weights=weights):
        return np.asarray(compiled(weights, *map(jnp.asarray, (tokens, positions, segments))))

    run.traces = 0
    return run


def test_defaults_are_one_document_from_position_0(model, run):
    @jax.jit
    def compiled(graph, weights):
        model = nnx.merge(graph, weights)
        hidden = model.hidden(jnp.asarray(TOKENS))
        return hidden, model.unembed(hidden[:, -1]), model(jnp.asarray(TOKENS))

    hidden, last, logits = compiled(*nnx.split(model))
    assert hidden.shape == (2, TIME, 16)
    assert logits.shape == (2, TIME, 31)
    assert 1 < jnp.abs(logits).max() <= 30
    np.testing.assert_allclose(logits, run(), atol=1e-5)
    np.testing.assert_allclose(last, run()[:, -1], atol=1e-5)  # unembed takes any rows of hidden


def test_same_shapes_trace_once(run):
    before = run.traces
    for seed in range(3):
        run(np.random.default_rng(seed).integers(0, 31, TOKENS.shape).astype(np.int32))
    assert run.traces <= max(before, 1)


def test_the_future_changes_nothing(run):
    changed = TOKENS.copy()
    changed[:, 7:] = 1 + changed[:, 7:] % 30
    np.testing.assert_array_equal(run(changed)[:, :7], run()[:, :7])
    assert (np.abs(run(changed) - run())[:, 7:].max(-1) > 1e-3).all()


@pytest.mark.parametrize("shift", [1, 1000])
def test_only_differences_of_positions_matter(run, shift):
    np.testing.assert_allclose(run(positions=POSITIONS + shift), run(), atol=2e-3)


@pytest.mark.parametrize("restart", [True, False], ids=["positions restart", "positions run on"])
def test_packed_documents_equal_separate_ones(run, restart):
    """Row 0: documents of 5, 1 and 6 tokens, each longer than nothing and one than the window."""
    lengths = [5, 1, 6]
    segments, positions = ONES.copy(), POSITIONS.copy()
    segments[0] = np.repeat([1, 2, 3], lengths)
    if restart:
        positions[0] = np.concatenate([np.arange(length) for length in lengths])
    packed = run(positions=positions, segments=segments)[0]
    start = 0
    for length in lengths:
        alone = np.zeros_like(TOKENS)
        alone[0, :length] = TOKENS[0, start : start + length]
        expected = run(alone)[0, :length]
        np.testing.assert_allclose(packed[start : start + length], expected, atol=1e-4)
        start += length


@pytest.mark.parametrize("explicit", [True, False], ids=["own positions", "row positions"])
@pytest.mark.parametrize("padding", [1, 4, 11])
def test_left_padding_changes_nothing(run, padding, explicit):
    tokens, segments, positions = np.zeros_like(TOKENS), ONES.copy(), POSITIONS.copy()
    tokens[:, padding:] = TOKENS[:, : TIME - padding]
    segments[:, :padding] = 0
    if explicit:
        positions = np.cumsum(segments, axis=1).astype(np.int32) - 1
    padded = run(tokens, positions, segments)
    assert np.isfinite(padded).all()
    np.testing.assert_allclose(padded[:, padding:], run()[:, : TIME - padding], atol=1e-4)
    tokens[:, :padding] = 17  # whatever stands in the padding
    other = run(tokens, positions, segments)
    np.testing.assert_array_equal(other[:, padding:], padded[:, padding:])


def test_rows_of_nothing_but_padding_stay_finite(run):
    assert np.isfinite(run(segments=np.zeros_like(ONES))).all()


def test_scan_equals_a_loop_over_layers(model, run):
    """Layer by layer from the slices of the stack, local at even and global at odd places."""
    positions, segments = jnp.asarray(POSITIONS), jnp.asarray(ONES)

    @jax.jit
    def looped(graph, weights):
        model = nnx.merge(graph, weights)
        rotation = rope_rotation(positions, CONFIG.head_dim, CONFIG.rope_base)
        where = {"rotation": rotation, "positions": positions, "segments": segments}
        x = model.embedder.encode(jnp.asarray(TOKENS))
        for layer in range(CONFIG.num_layers):
            stack = model.pairs.global_layer if layer % 2 else model.pairs.local_layer
            graph, stacked = nnx.split(stack)
            single = nnx.merge(graph, jax.tree.map(lambda w, at=layer // 2: w[at], stacked))
            x = single(x, window=None if layer % 2 else CONFIG.sliding_window, **where)
        return model.embedder.decode(model.final_norm(x))

    np.testing.assert_allclose(looped(*nnx.split(model)), run(), atol=2e-5)


def test_models_can_be_made_and_run_under_vmap(run):
    """Several seeds at once: what notebooks do for their error bars."""

    def weights_of(key):
        return nnx.split(Transformer(CONFIG, rngs=nnx.Rngs(key)))[1]

    @jax.jit
    def together(keys):
        weights = jax.vmap(weights_of)(keys)
        return jax.vmap(lambda weights: nnx.merge(graph, weights)(jnp.asarray(TOKENS)))(weights)

    keys = jax.random.split(jax.random.key(3), 3)
    graph = nnx.split(nnx.eval_shape(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0))))[0]
    for key, logits in zip(keys, together(keys), strict=True):
        np.testing.assert_allclose(logits, run(weights=weights_of(key)), atol=1e-5)


def test_initial_weights_keep_the_scale_of_their_input():
    """Standard deviation fan_in^-0.5, norms zero, no two weights from one key."""
    config = Gemma2Config(
        vocab_size=500,
        embed_dim=64,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        mlp_dim=256,
    )
    model = Transformer(config, rngs=nnx.Rngs(1))
    flat = {".".join(p): np.asarray(w) for p, w in nnx.to_flat_state(nnx.state(model))}
    fan_in = {"query": 64, "key": 64, "value": 64, "output": 128}
    fan_in |= {"table": 64, "gate": 64, "up": 64, "down": 256}
    firsts = []
    for path, weight in flat.items():
        name = path.rsplit(".", 1)[-1]
        if name == "scale":
            assert (weight == 0).all(), path
            continue
        expected = fan_in[name] ** -0.5
        assert np.std(weight) == pytest.approx(expected, rel=0.03), path
        layers = weight[None] if name == "table" else weight
        firsts += [float(layer.ravel()[0]) / expected for layer in layers]
    assert len(set(firsts)) == len(firsts) == 1 + 7 * config.num_layers


def test_nnx_grad_along_a_line_is_the_slope_of_the_loss(model, run):
    graph, weights = nnx.split(model)

    @jax.jit
    def gradient(weights):
        def loss(model):
            return jnp.sum(model(jnp.asarray(TOKENS))[:, :, 3])

        return nnx.grad(loss)(nnx.merge(graph, weights))

    leaves, tree = jax.tree.flatten(weights)
    generator = np.random.default_rng(0)
    line = [generator.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    slope = sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient(weights)), line))

    def loss_at(step):
        moved = [leaf + step * direction for leaf, direction in zip(leaves, line)]
        return run(weights=jax.tree.unflatten(tree, moved)).astype(np.float64)[:, :, 3].sum()

    assert abs(slope) > 1
    assert (loss_at(1e-3) - loss_at(-1e-3)) / 2e-3 == pytest.approx(slope, rel=0.01)


def test_bfloat16_activations_stay_close(run):
    """Same weights, rounded to bfloat16 in both: activations differ by their own rounding only."""
    low = Transformer(CONFIG, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    graph, weights = nnx.split(low)

    @jax.jit
    def compiled(weights):
        return nnx.merge(graph, weights)(jnp.asarray(TOKENS))

    expected = run(weights=jax.tree.map(lambda w: w.astype(jnp.float32), weights))
    error = np.sqrt(np.mean((compiled(weights) - expected) ** 2) / np.mean(expected**2))
    assert 1e-4 < error < 0.03


def test_a_program_does_not_grow_with_depth():
    """The 46-layer model is traced, differentiated and compiled as two layers and a loop."""

    def length(num_layers):
        config = dataclasses.replace(CONFIG, num_layers=num_layers)
        graph, weights = jax.eval_shape(lambda: nnx.split(Transformer(config, rngs=nnx.Rngs(0))))

        def loss(weights):
            return jnp.sum(nnx.merge(graph, weights)(jnp.asarray(TOKENS)))

        return jax.jit(jax.grad(loss)).lower(weights).as_text().count("\n")

    assert length(46) == length(4)


def test_training_steps_trace_inside_scan(model):
    graph, weights = nnx.split(model)

    def step(weights, tokens):
        def loss(weights):
            return jnp.mean(nnx.merge(graph, weights)(tokens))

        value, gradients = jax.value_and_grad(loss)(weights)
        return jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradients), value

    batches = jnp.tile(jnp.asarray(TOKENS)[None], (5, 1, 1))
    after, losses = jax.eval_shape(lambda weights: jax.lax.scan(step, weights, batches), weights)
    assert losses.shape == (5,)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, weights)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_those_asked_for(dtype, param_dtype):
    def look():
        model = Transformer(CONFIG, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=param_dtype)
        tokens = jnp.asarray(TOKENS)
        return nnx.state(model), model.hidden(tokens), model(tokens)

    weights, hidden, logits = jax.eval_shape(look)
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {jnp.dtype(param_dtype)}
    assert hidden.dtype == dtype
    assert logits.dtype == jnp.float32


def test_rows_longer_than_the_context_are_refused_unless_placed(model):
    tokens = jnp.ones((1, 25), jnp.int32)
    with pytest.raises(ValueError, match="at most max_context = 24 in a row, got 25"):
        model(tokens)
    segments = jnp.repeat(jnp.asarray([[1, 2]]), jnp.asarray([12, 13]), axis=1)
    shape = jax.eval_shape(model, tokens, segments, segments)
    assert shape.shape == (1, 25, 31)


def test_positions_and_segments_have_the_shape_of_tokens():
    """Without the run-time shape checks of the tests: a user has none."""
    model = nnx.eval_shape(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0)))
    tokens = jnp.asarray(TOKENS)
    hidden = getattr(Transformer.hidden, "__wrapped__", Transformer.hidden)
    with pytest.raises(ValueError, match=r"positions: expected the shape .*\(2, 12\), got \(12,\)"):
        hidden(model, tokens, jnp.arange(12))
    with pytest.raises(ValueError, match=r"segments: expected .*, got \(2, 11\)"):
        hidden(model, tokens, None, tokens[:, 1:])
