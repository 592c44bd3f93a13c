"""Sharding: the same loss, gradients and training on 8 devices as on one, and the plan of the 27B.

Run as a script, this file computes all cases that need 8 (simulated) devices, once, as JSON.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from matchbook import distill
from matchbook.corpus import Rows
from matchbook.gemma import Gemma2Config, Transformer, accounting, sharding, sharding_plan
from matchbook.gemma.rollout import rollout
from matchbook.gemma.sampling import row_keys, sampling

# Each program once: the first two rule sets use both mesh axes as one, so that all meshes of 8 give
# the same, and over 8 x 1 the third is the second.
CASES = [
    (4, 2, "data_parallel"),
    (8, 1, "fully_sharded"),
    (4, 2, "tensor_parallel"),
    (2, 4, "tensor_parallel"),
]
BATCH, TIME = 8, 13  # no size of a weight is a multiple of 13
TOY = Gemma2Config(
    vocab_size=40,
    embed_dim=16,
    num_layers=4,
    num_heads=8,
    num_kv_heads=4,
    head_dim=4,
    mlp_dim=24,
    sliding_window=5,
)
PAPER = {"data": 768, "model": 8}  # Table 3, 27B


def training(config=TOY, *, chunk_size=None, **options):
    """A step of AdamW whose first moments are a tenth of the gradients: nothing is clipped."""
    graph, _ = sharding_plan.abstract_model(config, **options)
    optimizer = distill.adamw(1e-2, 10, clip_norm=1e9)
    return distill.pretrain_step(graph, optimizer, chunk_size=chunk_size), optimizer


def toy_rows():
    """Two packed documents in each row, the second padded at its end in every other one."""
    tokens = np.random.default_rng(0).integers(1, TOY.vocab_size, (BATCH, TIME)).astype(np.int32)
    segments = np.tile(np.repeat([1, 2], [6, 7]).astype(np.int32), (BATCH, 1))
    segments[::2, -2:] = 0
    positions = np.tile(np.r_[0:6, 0:7].astype(np.int32), (BATCH, 1))
    return Rows(*map(jnp.asarray, (tokens, positions, segments)))


def two_steps(step, state, rows, **options):
    """Loss, state after one and after two steps (the first has rate 0), and the compiled step."""
    compiled = jax.jit(step, **options).lower(state, rows).compile()
    first, metrics = compiled(state, rows)
    second, _ = compiled(first, rows)  # takes the shardings that it gave
    return float(metrics["loss"]), first, second, compiled


def distance(ours, theirs):
    """Largest difference over a tree, relative to the largest entry of the same array."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / max(np.abs(b).max(), 1e-30))
        for a, b in pairs
        if np.ndim(b)
    )


def on_eight_devices():
    """Each case against one device; the figures that the tests hold against their bounds."""
    step, optimizer = training(remat="pair")
    _, weights = distill.new_model(TOY, seed=0)
    state, rows = distill.train_state(weights, optimizer), toy_rows()
    loss, first, second, _ = two_steps(step, *jax.device_put((state, rows), jax.devices()[0]))
    moved = jax.tree.map(lambda a, b: a - b, second.weights, first.weights)
    results = {}
    for data, model, rules in CASES:
        mesh = sharding.make_mesh(data=data, model=model)
        shardings = sharding.tree_shardings(state, mesh, rules)
        placed = sharding.shard(state, mesh, rules)
        sharded_rows = jax.device_put(rows, sharding.batch_sharding(mesh, rules))
        ours, one, two, compiled = two_steps(
            step, placed, sharded_rows, out_shardings=(shardings, None)
        )
        our_move = jax.tree.map(
            lambda a, b: np.asarray(a) - np.asarray(b), two.weights, one.weights
        )
        results[f"{data}x{model} {rules}"] = {
            "loss": abs(ours - loss) / loss,
            "gradient": distance(one.optimizer[1][0].mu, first.optimizer[1][0].mu),
            "weights": distance(two.weights, second.weights),
            "step": distance(our_move, moved),
            "stays": all(
                jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, two, shardings))
            ),
            "argument_bytes": compiled.memory_analysis().argument_size_in_bytes,
            "collectives": collectives(compiled.as_text()),
        }
    results["forward"] = sharded_forward(weights, rows)
    results["decoding"] = sharded_decoding(weights, rows)
    return results


def collectives(text):
    """(kind, shape) of everything that crosses devices in a compiled program."""
    found = set()
    for line in text.splitlines():
        kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
        if match := re.match(rf".* = (.*?) ({kinds})(?:-start)?\(", line):
            for shape in re.findall(r"[a-z0-9]+\[([0-9,]*)\]", match[1]):
                found.add((match[2], tuple(int(size) for size in shape.split(",") if size)))
    return sorted(found)


def sharded_forward(weights, rows):
    """`Transformer.__call__` with `in_shardings`, on arrays that lie nowhere in particular."""
    graph = distill.static_part(TOY)
    mesh = sharding.make_mesh(data=2, model=4)
    placement = sharding.weight_shardings(TOY, mesh, "tensor_parallel")
    lying = sharding.batch_sharding(mesh, "tensor_parallel")

    def forward(weights, tokens):
        return nnx.merge(graph, weights)(tokens)

    with jax.set_mesh(mesh):
        sharded = jax.jit(forward, in_shardings=(placement, lying))
        compiled = sharded.lower(weights, rows.tokens).compile()
    expected = jax.jit(forward)(weights, rows.tokens)
    ours = compiled(sharding.shard(weights, mesh, "tensor_parallel"), rows.tokens)
    found = collectives(compiled.as_text())
    return {"logits": distance(ours, expected), "collectives": found}


def sharded_decoding(weights, rows):
    """Greedy decoding past the window, one document to a row."""
    graph = distill.static_part(TOY)
    mesh = sharding.make_mesh(data=4, model=2)
    keys = row_keys(jax.random.key(0), BATCH, 1)

    @jax.jit
    def decode(weights, tokens):
        positions = jnp.broadcast_to(jnp.arange(TIME), tokens.shape)
        model, ones = nnx.merge(graph, weights), jnp.ones_like(tokens)
        return rollout(model, tokens, positions, ones, keys, sampling(0.0), num_new=6)

    rules = {**sharding.RULES["tensor_parallel"], "embed": ()}  # whole: nothing to gather
    lying = sharding.batch_sharding(mesh, rules)
    ours = decode(sharding.shard(weights, mesh, rules), jax.device_put(rows.tokens, lying))
    expected = decode(weights, rows.tokens)
    return {
        "same_tokens": bool((np.asarray(ours.tokens) == np.asarray(expected.tokens)).all()),
        "num_tokens": int(np.asarray(ours.lengths).sum()),
        "log_probs": distance(ours.log_probs, expected.log_probs),
    }


@pytest.fixture(scope="module")
def eight_devices():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 " + os.environ["XLA_FLAGS"],
        "JAX_PLATFORMS": "cpu",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    command = [sys.executable, str(Path(__file__).resolve())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("data", "model", "rules"), CASES)
def test_eight_devices_train_as_one(eight_devices, data, model, rules):
    found = eight_devices[f"{data}x{model} {rules}"]
    assert found["loss"] < 2e-5
    assert found["gradient"] < 2e-5
    assert found["weights"] < 2e-5
    assert found["step"] < 1e-3  # AdamW divides by gradients, small ones too
    assert found["stays"]


def test_eight_devices_give_the_logits_of_one(eight_devices):
    assert eight_devices["forward"]["logits"] < 1e-5


def test_eight_devices_decode_as_one(eight_devices):
    found = eight_devices["decoding"]
    assert found["same_tokens"]
    assert found["num_tokens"] == 6 * BATCH
    assert found["log_probs"] < 1e-5


@pytest.mark.parametrize(("data", "model", "rules"), CASES)
def test_each_device_holds_what_the_plan_says(eight_devices, data, model, rules):
    """Weights and moments of the compiled program's arguments, on one device, to the byte."""
    mesh = sharding.abstract_mesh(data=data, model=model)
    plan = sharding_plan.device_bytes(
        TOY, mesh, rules, batch=BATCH, time=TIME, remat="none", dtype=jnp.float32
    )
    rows = 3 * 4 * TIME * BATCH // sharding.num_shards("batch", mesh, rules)
    counts = 2 * 4  # AdamW's and the schedule's
    held = eight_devices[f"{data}x{model} {rules}"]["argument_bytes"]
    assert held == plan.weights + plan.moments + rows + counts


@pytest.mark.parametrize("case", [*(f"{d}x{m} {rules}" for d, m, rules in CASES), "forward"])
def test_activations_stay_where_they_are(eight_devices, case):
    """Only weights are gathered; what is summed over devices is gradients and local streams."""
    sums = ("all-reduce", "reduce-scatter")
    for kind, shape in eight_devices[case]["collectives"]:
        has_tokens = any(size % TIME == 0 for size in shape)
        assert kind in (*sums, "all-gather"), (kind, shape)
        assert not has_tokens or kind in sums, (kind, shape)
        whole_batch = BATCH * TIME in shape or (BATCH in shape and TIME in shape)
        assert not whole_batch, (kind, shape)


def test_rules_cut_what_they_name():
    mesh = sharding.abstract_mesh(**PAPER)
    config = Gemma2Config.gemma2_27b()
    weights = sharding.weight_shardings(config, mesh, "tensor_parallel")
    _, shapes = sharding_plan.abstract_model(config)
    layer, sizes = weights["pairs"]["global_layer"], shapes["pairs"]["global_layer"]

    def part(kind, name):
        return layer[kind][name].shard_shape(sizes[kind][name].shape)

    assert part("attention", "query") == (23, 4608 // 768, 32 // 8, 128)
    assert part("attention", "key") == (23, 6, 16 // 8, 128)
    assert part("attention", "output") == (23, 4, 128, 6)
    assert part("mlp", "gate") == (23, 6, 36_864 // 8)
    assert part("mlp", "down") == (23, 4608, 6)
    assert part("post_mlp_norm", "scale") == (23, 4608)
    table = weights["embedder"]["table"].shard_shape(shapes["embedder"]["table"].shape)
    assert table == (256_128 // 8, 6)
    assert sharding.batch_sharding(mesh, "tensor_parallel").shard_shape((768, 8192)) == (1, 8192)
    eight = sharding.abstract_mesh(data=8, model=1)
    whole = sharding.weight_shardings(config, eight, "data_parallel")
    assert all(s.is_fully_replicated for s in jax.tree.leaves(whole))
    owned = sharding.weight_shardings(config, eight, "fully_sharded")
    cut = [not s.is_fully_replicated for s in jax.tree.leaves(owned)]
    assert sum(cut) == 15  # the table and seven matrices of each kind of layer; no norm


def test_every_form_of_the_weights_gets_the_same_shardings():
    mesh = sharding.abstract_mesh(data=2, model=2)
    model = nnx.eval_shape(lambda: Transformer(TOY, rngs=nnx.Rngs(0)))
    expected = sharding.weight_shardings(TOY, mesh, "tensor_parallel")
    state = sharding.tree_shardings(nnx.state(model), mesh, "tensor_parallel")
    assert nnx.to_pure_dict(state) == expected
    weights = nnx.to_pure_dict(nnx.state(model))
    train_state = jax.eval_shape(lambda w: distill.train_state(w, optax.adamw(1.0)), weights)
    found = sharding.tree_shardings(train_state, mesh, "tensor_parallel")
    assert found.weights == found.optimizer[0].mu == found.optimizer[0].nu == expected
    assert found.optimizer[0].count.is_fully_replicated


def test_sizes_that_a_mesh_cannot_cut_are_refused():
    config, mesh = Gemma2Config.gemma2_2b(), sharding.abstract_mesh(data=2, model=8)
    with pytest.raises(ValueError, match=r"kv_heads: .*multiple of 8,.*\('model',\), got 4"):
        sharding.weight_shardings(config, mesh, "tensor_parallel")
    rules = {**sharding.RULES["tensor_parallel"], "kv_heads": ()}
    weights = sharding.weight_shardings(config, mesh, rules)
    assert weights["pairs"]["local_layer"]["attention"]["key"].spec[2] is None
    paper = sharding.abstract_mesh(**PAPER)
    with pytest.raises(ValueError, match=r"embed: expected a multiple of 6144,.* got 2304"):
        sharding.weight_shardings(config, paper, "fully_sharded")
    with pytest.raises(ValueError, match="batch: expected a multiple of 2 shards, got 3"):
        sharding_plan.device_bytes(
            config, mesh, rules, batch=3, time=8, remat="none", dtype=jnp.float32
        )


def test_mistakes_are_refused():
    mesh = sharding.abstract_mesh(data=2, model=2)
    with pytest.raises(ValueError, match="product of 1, the number of devices, got 2 x 1 = 2"):
        sharding.make_mesh(data=2, model=1)
    assert sharding.make_mesh(data=1, model=1).shape == {"data": 1, "model": 1}
    with pytest.raises(ValueError, match=r"one of \['data_parallel', .*got 'zero'"):
        sharding.weight_shardings(TOY, mesh, "zero")
    with pytest.raises(ValueError, match="got 'head'"):
        sharding.rule_set({"head": ("model",)})
    with pytest.raises(ValueError, match=r"mlp: expected a tuple of axes .*got \('models',\)"):
        sharding.rule_set({"mlp": ("models",)})
    stranger = {"adapter": jax.ShapeDtypeStruct((4, 4), jnp.float32)}
    with pytest.raises(ValueError, match="adapter: expected an array named like one of"):
        sharding.tree_shardings(stranger, mesh, "data_parallel")


def lowered(config, *, time, **options):
    """One AdamW step of the paper's run, for TPUs: 768 rows, bfloat16 activations."""
    options |= {"dtype": jnp.bfloat16, "chunk_size": 768 * time}  # a row on each device
    step, optimizer = training(config, **options)
    _, weights = sharding_plan.abstract_model(config)
    state = jax.eval_shape(lambda weights: distill.train_state(weights, optimizer), weights)
    tokens = jax.ShapeDtypeStruct((768, time), jnp.int32)
    mesh = sharding.abstract_mesh(**PAPER)
    rows = Rows(tokens, tokens, tokens)
    return sharding_plan.lower(step, state, rows, mesh, "tensor_parallel", platform="tpu")


def test_the_27b_training_step_lowers_for_the_papers_mesh():
    config = Gemma2Config.gemma2_27b()
    text = lowered(config, time=8192, remat="pair").as_text()
    assert 'sdy.mesh @mesh = <["data"=768, "model"=8]>' in text
    gate = (
        'tensor<23x4608x36864xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}, {"data"}, {"model"}]>'
    )
    assert text.count(gate) >= 2 * 3  # gate of either layer and its two moments
    gathered = re.findall(r"sdy.sharding_constraint .* : tensor<(\S*)>", text)
    matrices = [shape for shape in gathered if not shape.startswith("256128x")]
    assert matrices
    assert all(shape.endswith("xbf16") for shape in matrices)  # cast before they travel


@pytest.mark.parametrize("remat", ["none", "dots", "pair", "layer"])
def test_planned_flops_against_what_xla_counts(remat):
    """Two layers, since XLA counts a loop's body once; dense, since it counts masked keys too."""
    time = 1024
    config = dataclasses.replace(Gemma2Config.gemma2_27b(), num_layers=2)
    counted = lowered(config, time=time, remat=remat, attention="dense").cost_analysis()["flops"]
    planned = sharding_plan.device_flops(
        accounting.forward_flops(config, local_keys=time, global_keys=time),
        sharding.abstract_mesh(**PAPER),
        "tensor_parallel",
        tokens=768 * time,
        remat=remat,
    )
    assert planned.total == pytest.approx(counted / 6144, rel=0.01)


def test_planned_bytes_of_the_27b():
    """Against arithmetic: what is owned, and what depth adds to what each policy keeps."""
    config, time = Gemma2Config.gemma2_27b(), 8192
    mesh = sharding.abstract_mesh(**PAPER)

    def plan(num_layers, remat):
        sized = dataclasses.replace(config, num_layers=num_layers)
        options = {"batch": 768, "time": time, "remat": remat, "dtype": jnp.bfloat16}
        return sharding_plan.device_bytes(sized, mesh, "tensor_parallel", **options)

    parameters = accounting.parameter_count(config)
    norms = 46 * parameters.norms + parameters.final_norm
    owned = 4 * ((parameters.total - norms) // 6144 + norms)
    pair = plan(46, "pair")
    assert (pair.weights, pair.gradients, pair.moments) == (owned, owned, 2 * owned)
    assert pair.logits == 2 * 4 * time * 256_128 // 8
    matrices = 2 * (parameters.attention + parameters.mlp)
    table = 4 * 256_128 // 8 * 4608
    assert pair.gathered == table + 2 * matrices // 8
    stream = 2 * time * 4608
    each = {name: (plan(6, name).kept - plan(4, name).kept) for name in ("dots", "pair", "layer")}
    heads = 128 * (4 + 2 + 2)
    products = 2 * time * (heads + 4608 + 2 * 36_864 // 8 + 4608)
    assert each == {"dots": stream + 2 * products, "pair": stream, "layer": 2 * stream}


if __name__ == "__main__":
    print(json.dumps(on_eight_devices()))
