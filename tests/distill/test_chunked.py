"""Chunked losses: against probability space in float64, dense losses and the compiler's numbers."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from matchbook import divergences
from matchbook.distill import losses
from matchbook.distill.chunked import chunked_distillation_loss, chunked_next_token_loss
from matchbook.distill.chunks import in_chunks
from matchbook.distill.memory import loss_memory

TOKENS, VOCAB, EMBED, TEACHER_EMBED = 13, 11, 3, 5
CAP, TEACHER_CAP = 4.0, 6.0
DIVERGENCES = {
    "cross_entropy": None,
    "forward_kl": None,
    "backward_kl": None,
    "jeffreys": 0.3,
    "jensen_shannon": 0.3,
}
# Temperature, soft-caps or none, weight of the hard labels.
SETTINGS = {"plain": (1.0, None, None, 0.0), "all": (2.0, CAP, TEACHER_CAP, 0.4)}


def definition(name, p, q):
    """Divergence of rows of probabilities, from its definition."""
    beta = DIVERGENCES[name]
    if name == "cross_entropy":
        return -(p * np.log(q)).sum(-1)
    forward, backward = rel_entr(p, q).sum(-1), rel_entr(q, p).sum(-1)
    if name == "jensen_shannon":
        mixture = beta * p + (1 - beta) * q
        parts = rel_entr(p, mixture).sum(-1), rel_entr(q, mixture).sum(-1)
        return beta * parts[0] + (1 - beta) * parts[1]
    weight = {"forward_kl": 0.0, "backward_kl": 1.0}.get(name, beta)
    return (1 - weight) * forward + weight * backward


def reference(name, setting, x):
    """The sum over tokens that count, in float64, one token's whole distribution at a time."""
    temperature, cap, teacher_cap, hard_weight = setting

    def capped(logits, cap):
        return logits if cap is None else cap * np.tanh(logits / cap)

    logits = capped(x["hidden"] @ x["table"].T, cap)
    teacher = capped(x["teacher_hidden"] @ x["teacher_table"].T, teacher_cap)
    p, q = softmax(teacher / temperature, -1), softmax(logits / temperature, -1)
    hard = -np.log(softmax(logits, -1)[np.arange(len(logits)), x["targets"]])
    each = (1 - hard_weight) * definition(name, p, q) + hard_weight * hard
    return each[x["where"]].sum()


@pytest.fixture
def example():
    random = np.random.default_rng(0)
    return {
        "hidden": 2 * random.normal(size=(TOKENS, EMBED)),
        "table": random.normal(size=(VOCAB, EMBED)),
        "teacher_hidden": random.normal(size=(TOKENS, TEACHER_EMBED)),
        "teacher_table": random.normal(size=(VOCAB, TEACHER_EMBED)),
        "where": random.random(TOKENS) < 0.7,
        "targets": random.integers(0, VOCAB, TOKENS),
    }


def arrays(x):
    dtypes = {"f": np.float32, "b": np.bool, "i": np.int32}
    return {name: value.astype(dtypes[value.dtype.kind]) for name, value in x.items()}


def loss_of(name, setting=SETTINGS["plain"], beta=None, chunk_size=4):
    temperature, cap, teacher_cap, hard_weight = setting
    return functools.partial(
        chunked_distillation_loss,
        divergence=divergences.by_name(name, DIVERGENCES.get(name) if beta is None else beta),
        softcap=cap,
        teacher_softcap=teacher_cap,
        temperature=temperature,
        hard_weight=hard_weight,
        chunk_size=chunk_size,
    )


@functools.cache
def compiled(loss, **fixed):
    """(sum, count) and the gradients of the sum for hidden and table, as one program."""

    def value(hidden, table, rest):
        return loss(hidden, table, **rest, **fixed)

    program = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))

    def call(**x):
        rest = {k: v for k, v in x.items() if k not in ("hidden", "table")}
        (total, count), gradients = program(x["hidden"], x["table"], rest)
        return jax.tree.map(np.asarray, (total, count, gradients))

    return call


@functools.cache
def program(name, setting="plain", beta=None, chunk_size=4):
    return compiled(loss_of(name, SETTINGS[setting], beta, chunk_size))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_and_gradients_are_the_definition(example, name, setting):
    total, count, gradients = program(name, setting)(**arrays(example))
    expected = reference(name, SETTINGS[setting], example)
    assert total == pytest.approx(expected, rel=5e-6)
    assert count == example["where"].sum()
    assert total.dtype == count.dtype == jnp.float32
    for argument, gradient in zip(("hidden", "table"), gradients, strict=True):
        difference, step = np.zeros_like(example[argument]), 1e-6
        for place in np.ndindex(difference.shape):
            ends = []
            for sign in (1, -1):
                moved = example[argument].copy()
                moved[place] += sign * step
                changed = example | {argument: moved}
                ends.append(reference(name, SETTINGS[setting], changed))
            difference[place] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient, difference, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["forward_kl", "backward_kl", "jeffreys", "jensen_shannon"])
def test_zero_where_equal_and_positive_elsewhere(example, name):
    x = arrays(example)
    x["teacher_hidden"], x["teacher_table"] = x["hidden"], x["table"]
    total, _, gradients = program(name)(**x)
    assert total == pytest.approx(0, abs=1e-7)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=2e-6)
    for seed in range(20):
        x["teacher_hidden"] = np.random.default_rng(seed).normal(size=(TOKENS, EMBED))
        x["teacher_hidden"] = x["teacher_hidden"].astype(np.float32)
        one = np.arange(TOKENS) == seed % TOKENS
        assert program(name)(**x | {"where": one})[0] > 1e-4


def test_ends_of_every_interpolation(example):
    x = arrays(example)
    forward, backward = program("forward_kl")(**x), program("backward_kl")(**x)

    def close(got, expected, scale=1.0, rtol=1e-6):
        assert got[0] / scale == pytest.approx(expected[0], rel=rtol)
        for gradient, wanted in zip(got[2], expected[2], strict=True):
            np.testing.assert_allclose(gradient / scale, wanted, rtol=rtol, atol=rtol)

    close(program("jeffreys", beta=0.0)(**x), forward)
    close(program("jeffreys", beta=1.0)(**x), backward)
    hard_only = compiled(loss_of("forward_kl", (2.0, None, None, 1.0)))(**x)
    inputs = {k: x[k] for k in ("hidden", "table", "targets", "where")}
    close(hard_only, compiled(chunked_next_token_loss, softcap=None, chunk_size=5)(**inputs))
    # A weight of 0 needs no targets.
    close(program("forward_kl")(**{k: v for k, v in x.items() if k != "targets"}), forward)
    # The error is of order beta times the largest ratio: small where the two are not far apart.
    x |= {"hidden": 0.2 * x["hidden"], "teacher_hidden": 0.2 * x["teacher_hidden"]}
    forward, backward = program("forward_kl")(**x), program("backward_kl")(**x)
    near = 1e-3
    close(program("jensen_shannon", beta=near)(**x), forward, scale=near, rtol=1e-2)
    close(program("jensen_shannon", beta=1 - near)(**x), backward, scale=near, rtol=1e-2)


def test_equals_the_dense_losses(example):
    x = arrays(example)

    @jax.jit
    def both(x):
        logits = CAP * jnp.tanh(x["hidden"] @ x["table"].T / CAP)[None]
        teacher = TEACHER_CAP * jnp.tanh(x["teacher_hidden"] @ x["teacher_table"].T / TEACHER_CAP)
        where, targets = x["where"][None], x["targets"][None]
        inputs = {name: x[name] for name in ("hidden", "table", "targets", "where")}
        setting = (1.5, CAP, TEACHER_CAP, 0.0)
        chunked = (
            loss_of("cross_entropy", setting)(**x),
            loss_of("forward_kl", setting)(**x),
            chunked_next_token_loss(**inputs, softcap=CAP),
        )
        dense = (
            losses.soft_target_loss(logits, teacher[None], where, 1.5),
            losses.forward_kl_loss(logits, teacher[None], where, 1.5),
            losses.next_token_loss(logits, targets, where),
        )
        return chunked, dense

    np.testing.assert_allclose(*both(x), rtol=2e-6)


def test_the_same_for_every_chunk_size_shape_and_packing(example):
    x = arrays(example)
    total, count, gradients = program("jeffreys", "all")(**x)
    tables = {name: x.pop(name) for name in ("table", "teacher_table")}

    def check(got):
        np.testing.assert_allclose(got[0], total, rtol=1e-6)
        assert got[1] == count
        np.testing.assert_allclose(got[2][0].reshape(TOKENS, EMBED), gradients[0], atol=1e-6)
        np.testing.assert_allclose(got[2][1], gradients[1], atol=2e-6)

    for chunk_size in (1, 5, None):
        check(program("jeffreys", "all", chunk_size=chunk_size)(**x, **tables))
    # As a row of a batch.
    check(program("jeffreys", "all")(**{k: v[None] for k, v in x.items()}, **tables))
    # In another order with padding in between, which may be anything.
    order = np.random.default_rng(1).permutation(3 * TOKENS)[:TOKENS]
    packed = {
        "where": np.zeros(3 * TOKENS, bool),
        "targets": np.full(3 * TOKENS, VOCAB + 7, np.int32),
        "hidden": np.full((3 * TOKENS, EMBED), np.nan, np.float32),
        "teacher_hidden": np.full((3 * TOKENS, TEACHER_EMBED), np.inf, np.float32),
    }
    for name, values in packed.items():
        values[order] = x[name]
    got = program("jeffreys", "all")(**packed, **tables)
    check((*got[:2], (got[2][0][order], got[2][1])))
    np.testing.assert_array_equal(np.delete(got[2][0], order, axis=0), 0)
    # Sums over parts add up.
    parts = [
        program("jeffreys", "all")(**{k: v[a:b] for k, v in x.items()}, **tables)
        for a, b in pairwise((0, 8, 13))
    ]
    assert sum(part[0] for part in parts) == pytest.approx(total, rel=1e-6)
    assert sum(part[1] for part in parts) == count


def test_chunks_hold_every_token_once():
    for tokens in (1, 13):
        values = jnp.asarray(np.arange(1, tokens + 1))
        for chunk_size in (1, 5, 50, None):
            chunks = np.asarray(in_chunks(values, (tokens,), chunk_size, VOCAB))
            assert chunks.shape[1] <= (chunk_size or tokens)
            assert chunks.size < tokens + len(chunks)  # no more padding than it takes
            assert sorted(chunks[chunks > 0].tolist()) == list(range(1, tokens + 1))


def test_nothing_counts(example):
    x = arrays(example) | {"where": np.zeros(TOKENS, bool)}
    total, count, gradients = program("forward_kl")(**x)
    assert total == count == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_the_teacher_gets_no_gradient(example):
    x = jax.tree.map(jnp.asarray, arrays(example))

    def total(teacher_hidden, teacher_table):
        changed = x | {"teacher_hidden": teacher_hidden, "teacher_table": teacher_table}
        return loss_of("backward_kl")(**changed)[0]

    gradient = jax.jit(jax.grad(total, (0, 1)))
    for each in gradient(x["teacher_hidden"], x["teacher_table"]):
        np.testing.assert_array_equal(each, 0)


def test_vmap_over_seeds_is_a_loop(example):
    x = arrays(example)
    random = np.random.default_rng(3)
    hidden, tables = (
        np.stack([x.pop(name), random.normal(size=example[name].shape)]).astype(np.float32)
        for name in ("hidden", "table")
    )
    loss = loss_of("forward_kl", SETTINGS["all"])
    constants = jax.tree.map(jnp.asarray, x)
    gradient = jax.grad(lambda hidden, table: 3 * loss(hidden, table, **constants)[0], (0, 1))
    together = jax.jit(jax.vmap(gradient))(hidden, tables)
    for seed in range(2):
        _, _, alone = program("forward_kl", "all")(hidden=hidden[seed], table=tables[seed], **x)
        for both, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(both[seed], 3 * one, rtol=1e-5, atol=1e-6)


def test_bfloat16_activations_are_summed_in_float32():
    # 600 equal tokens, one in a chunk: in bfloat16 the sum would stop at 256 times one.
    random = np.random.default_rng(2)
    x = {
        "hidden": jnp.tile(jnp.asarray(random.normal(size=EMBED), jnp.bfloat16), (600, 1)),
        "table": jnp.asarray(random.normal(size=(VOCAB, EMBED)), jnp.float32),
        "teacher_hidden": jnp.ones((600, TEACHER_EMBED), jnp.bfloat16),
        "teacher_table": jnp.asarray(random.normal(size=(VOCAB, TEACHER_EMBED)), jnp.float32),
        "where": jnp.ones(600, bool),
    }
    many = program("forward_kl", chunk_size=1)(**x)
    x |= {name: x[name][:1] for name in ("hidden", "teacher_hidden", "where")}
    one = program("forward_kl", chunk_size=1)(**x)
    assert many[2][0].dtype == jnp.bfloat16
    assert many[0].dtype == many[2][1].dtype == jnp.float32
    assert many[0] == pytest.approx(600 * float(one[0]), rel=1e-5)
    np.testing.assert_allclose(many[2][1], 600 * one[2][1], rtol=1e-5)


def sizes_in(jaxpr):
    """Sizes of all values that a program computes, loops and calls included."""
    for equation in jaxpr.eqns:
        for value in equation.outvars:
            yield getattr(value.aval, "size", 0)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes_in(inner)


def test_no_array_of_tokens_by_vocabulary_is_ever_whole():
    tokens, vocab = 64, 101
    inputs = {
        "hidden": jnp.zeros((tokens, 4)),
        "table": jnp.zeros((vocab, 4)),
        "teacher_hidden": jnp.zeros((tokens, 6)),
        "teacher_table": jnp.zeros((vocab, 6)),
        "where": jnp.ones(tokens, bool),
        "targets": jnp.zeros(tokens, jnp.int32),
    }

    def largest(chunk_size):
        def total(hidden, table):
            loss = loss_of("jensen_shannon", SETTINGS["all"], chunk_size=chunk_size)
            return loss(**inputs | {"hidden": hidden, "table": table})[0]

        gradient = jax.grad(total, (0, 1))
        return max(sizes_in(jax.make_jaxpr(gradient)(inputs["hidden"], inputs["table"]).jaxpr))

    assert largest(tokens) == tokens * vocab  # the search sees one that is there
    assert largest(8) == 8 * vocab


def test_peak_memory_at_the_real_vocabulary_is_at_most_a_fifth():
    memory = loss_memory(tokens=4096, vocab=256_128, embed=256, chunk_sizes=(256,))
    assert list(memory) == ["dense", "chunks of 256"]
    assert memory["dense"] > 2 * 4 * 4096 * 256_128  # two whole float32 arrays at least
    assert 5 * memory["chunks of 256"] <= memory["dense"]


def test_refusals(example):
    x = jax.tree.map(jnp.asarray, arrays(example))
    caps = {"softcap": None, "teacher_softcap": None}
    for temperature in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature: expected a positive number"):
            chunked_distillation_loss(**x, **caps, temperature=temperature)
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"hard_weight: expected a share in \[0, 1\]"):
            chunked_distillation_loss(**x, **caps, hard_weight=weight)
    with pytest.raises(ValueError, match="chunk_size: expected at least 1"):
        chunked_distillation_loss(**x, **caps, chunk_size=0)
    without = {k: v for k, v in x.items() if k != "targets"}
    with pytest.raises(ValueError, match=r"targets: expected token ids, as hard_weight is 0\.5"):
        chunked_distillation_loss(**without, **caps, hard_weight=0.5)
    beyond = jnp.full(TOKENS, VOCAB, jnp.int32)
    inputs = {k: x[k] for k in ("hidden", "table", "where")}
    assert jnp.isnan(chunked_next_token_loss(**inputs, targets=beyond, softcap=None)[0])
