"""Checkpoints: transformers' own files, ours as transformers was seen to load them, round trips."""

import dataclasses
import hashlib
import json
import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file

from matchbook import corpus
from matchbook.gemma import Gemma2Config, Transformer
from matchbook.gemma.checkpoints import (
    CheckpointError,
    flax_orbax,
    hugging_face,
    load_checkpoint,
    safetensors_files,
    save_checkpoint,
    weights,
    with_rows,
    writing,
)
from matchbook.gemma.mapping import from_hugging_face, hugging_face_tensors
from matchbook.gemma.tokenizer import Tokenizer

GOLDENS = Path(__file__).parents[1] / "goldens" / "gemma2_checkpoints"
SHARD_BYTES = {"single": 10**9, "sharded": 8_000}
CONFIG = Gemma2Config(
    vocab_size=40, embed_dim=8, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=6, mlp_dim=12
)


def leaves(model: Transformer) -> dict:
    return {path: np.asarray(leaf) for path, leaf in weights.leaves_of(model).items()}


def assert_same(model: Transformer, other: Transformer) -> None:
    ours, theirs = leaves(model), leaves(other)
    assert model.config == other.config
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        assert leaf.dtype == theirs[path].dtype, path
        np.testing.assert_array_equal(leaf, theirs[path], strict=True)


def run(model: Transformer, tokens: np.ndarray) -> np.ndarray:
    graph, state = nnx.split(model)
    forward = jax.jit(lambda s, t: nnx.merge(graph, s)(t))
    return np.asarray(forward(state, jnp.asarray(tokens)))


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Weights all different from each other, so that none can be swapped unseen."""
    model = nnx.eval_shape(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0)))
    generator = np.random.default_rng(0)
    shapes = weights.flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    arrays = {
        path: jnp.asarray(generator.standard_normal(leaf.shape, np.float32))
        for path, leaf in shapes.items()
    }
    return weights.with_leaves(model, arrays)


# Against transformers


@pytest.mark.parametrize("name", SHARD_BYTES)
def test_what_transformers_saved_gives_its_logits(name):
    golden = load_file(GOLDENS / f"{name}.safetensors")
    model = load_checkpoint(GOLDENS / name, dtype="float32")
    error = np.abs(run(model, golden["tokens"]) - golden["logits"]).max()
    assert error <= 1e-5 * np.abs(golden["logits"]).max()


@pytest.mark.parametrize("name", SHARD_BYTES)
def test_what_we_save_is_what_transformers_was_seen_to_load(name, tmp_path):
    """The digests are of folders from which transformers computed its own logits, bit for bit."""
    save_checkpoint(
        load_checkpoint(GOLDENS / name), tmp_path / "ours", max_shard_bytes=SHARD_BYTES[name]
    )
    assert digests(tmp_path / "ours") == json.loads((GOLDENS / "ours.json").read_text())[name]


def test_the_goldens_have_shards_and_constants_that_are_not_the_defaults():
    single, sharded = (load_checkpoint(GOLDENS / name) for name in ("single", "sharded"))
    assert len(list((GOLDENS / "sharded").glob("*.safetensors"))) >= 3
    assert (single.embedder.table.dtype, sharded.embedder.table.dtype) == (
        jnp.float32,
        jnp.bfloat16,
    )
    for field in ("rope_base", "norm_eps", "attention_softcap", "final_softcap"):
        assert getattr(single.config, field) != getattr(sharded.config, field)
    assert sharded.config.query_pre_attn_scalar != sharded.config.head_dim


# Round trips


@pytest.mark.parametrize("layout", ["hugging_face", "flax"])
def test_what_was_saved_comes_back(model, layout, tmp_path):
    save_checkpoint(model, tmp_path / "a", layout=layout, max_shard_bytes=1)
    back = load_checkpoint(tmp_path / "a")
    assert_same(model, back)
    assert back.embedder.dtype == jnp.float32


def test_files_are_what_the_safetensors_library_reads(model, tmp_path):
    """Another reader, and names, shapes and layouts by another way: `place.to_ours` in memory."""
    save_checkpoint(model, tmp_path / "a", max_shard_bytes=2_000)
    index = json.loads((tmp_path / "a" / "model.safetensors.index.json").read_text())
    tensors, total = {}, 0
    for path in (tmp_path / "a").glob("*.safetensors"):
        with safe_open(path, "np") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():  # noqa: SIM118
                tensors[name] = file.get_tensor(name)
                assert index["weight_map"][name] == path.name
        sizes = [tensors[n].nbytes for n, p in index["weight_map"].items() if p == path.name]
        assert sum(sizes) <= 2_000 or len(sizes) == 1
        total += sum(sizes)
    assert index["metadata"]["total_size"] == total
    assert tensors.keys() == {place.name for place in hugging_face_tensors(CONFIG)}
    expected = weights.flatten_dict(from_hugging_face(CONFIG, tensors))
    for path, leaf in leaves(model).items():
        np.testing.assert_array_equal(leaf, expected[path])


@pytest.mark.parametrize("layout", ["hugging_face", "flax"])
def test_dtypes(model, layout, tmp_path):
    save_checkpoint(model, tmp_path / "a", layout=layout)
    half = load_checkpoint(tmp_path / "a", dtype="bfloat16")
    assert half.embedder.dtype == jnp.bfloat16
    for path, leaf in leaves(model).items():
        expected = np.asarray(jnp.asarray(leaf).astype(jnp.bfloat16))
        np.testing.assert_array_equal(leaves(half)[path], expected, strict=True)
    save_checkpoint(half, tmp_path / "b", layout=layout)
    assert_same(half, load_checkpoint(tmp_path / "b"))
    with pytest.raises(ValueError, match="dtype: expected float32, bfloat16 or float16, got int8"):
        load_checkpoint(tmp_path / "a", dtype="int8")


def test_mixed_dtypes_become_float32(model, tmp_path):
    mixed = weights.leaves_of(model)
    mixed["final_norm", "scale"] = mixed["final_norm", "scale"].astype(jnp.bfloat16)
    save_checkpoint(weights.with_leaves(model, mixed), tmp_path / "a")
    assert {leaf.dtype for leaf in leaves(load_checkpoint(tmp_path / "a")).values()} == {
        np.dtype(np.float32)
    }


def test_a_repeated_table_is_no_second_one(tmp_path):
    folder = tmp_path / "a"
    tensors = load_file(GOLDENS / "single" / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    write(folder, tensors | {"lm_head.weight": table})
    assert_same(load_checkpoint(folder), load_checkpoint(GOLDENS / "single"))
    untied = table.copy()
    untied[17, 3] += 1e-3
    write(folder, tensors | {"lm_head.weight": untied})
    with pytest.raises(CheckpointError, match=r"lm_head.weight: expected the numbers of .* tied"):
        load_checkpoint(folder)
    write(folder, tensors | {"lm_head.weight": table[:30]})
    with pytest.raises(CheckpointError, match=r"lm_head.weight: expected shape \[40, 16\], found"):
        load_checkpoint(folder)


def write(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes((GOLDENS / "single" / "config.json").read_bytes())
    (folder / "model.safetensors").unlink(missing_ok=True)
    new = [
        safetensors_files.NewTensor(name, array.dtype, array.shape, [array])
        for name, array in tensors.items()
    ]
    safetensors_files.write(folder / "model.safetensors", new)


# Google's layout


def google_tree(theirs: dict[str, np.ndarray], config: Gemma2Config, transposed: bool) -> dict:
    """The semi-flat tree from Hugging Face tensors, by the table of section 8.3 read backwards."""
    heads, kv_heads, head = config.num_heads, config.num_kv_heads, config.head_dim
    embed = config.embed_dim
    tree = {
        "transformer/embedder": {"input_embedding": theirs["model.embed_tokens.weight"]},
        "transformer/final_norm": {"scale": theirs["model.norm.weight"]},
    }
    for i in range(config.num_layers):
        of = {
            name.split(f"layers.{i}.")[1].removesuffix(".weight"): tensor
            for name, tensor in theirs.items()
            if f"layers.{i}." in name
        }

        def split(name, count, of=of):
            return of[f"self_attn.{name}"].reshape(count, head, embed).swapaxes(1, 2)

        kv = np.stack([split("k_proj", kv_heads), split("v_proj", kv_heads)])
        gating = np.stack([of["mlp.gate_proj"], of["mlp.up_proj"]])
        out = of["self_attn.o_proj"].T.reshape(heads, head, embed)
        layer = {
            "attn/q_einsum": {"w": split("q_proj", heads)},
            "attn/kv_einsum": {"w": kv},
            "attn/attn_vec_einsum": {"w": out},
            "mlp/gating_einsum": {"w": gating if transposed else gating.swapaxes(1, 2)},
            "mlp/linear": {"w": of["mlp.down_proj"].T},
            "pre_attention_norm": {"scale": of["input_layernorm"]},
            "post_attention_norm": {"scale": of["post_attention_layernorm"]},
            "pre_ffw_norm": {"scale": of["pre_feedforward_layernorm"]},
            "post_ffw_norm": {"scale": of["post_feedforward_layernorm"]},
        }
        tree |= {f"transformer/layer_{i}/{name}": value for name, value in layer.items()}
    return tree


@pytest.mark.parametrize("transposed", [False, True])
def test_google_s_tree_as_orbax_writes_it(model, transposed, tmp_path):
    """Written by Orbax's own handler, in an inner folder, without a config beside it."""
    save_checkpoint(model, tmp_path / "hf")
    tree = google_tree(load_file(tmp_path / "hf" / "model.safetensors"), CONFIG, transposed)
    ocp.PyTreeCheckpointer().save(tmp_path / "google" / "inner", jax.tree.map(jnp.asarray, tree))
    (tmp_path / "google" / "tokenizer.model").write_bytes(b"beside")
    assert_same(load_checkpoint(tmp_path / "google", config=CONFIG), model)
    assert_same(load_checkpoint(tmp_path / "google" / "inner", config=CONFIG), model)
    with pytest.raises(CheckpointError, match=r"expected the sizes of 2B, 9B or 27B.*pass config="):
        load_checkpoint(tmp_path / "google")
    other = dataclasses.replace(CONFIG, mlp_dim=16)
    with pytest.raises(CheckpointError, match=r"\[2, 16, 8\], found .*by the config passed"):
        load_checkpoint(tmp_path / "google", config=other)


def test_our_tree_is_google_s(model, tmp_path):
    """Read back by Orbax alone; in our sizes the gate is as in the 9B and 27B."""
    save_checkpoint(model, tmp_path / "hf")
    save_checkpoint(model, tmp_path / "flax", layout="flax")
    expected = google_tree(load_file(tmp_path / "hf" / "model.safetensors"), CONFIG, True)
    found = ocp.PyTreeCheckpointer().restore(tmp_path / "flax" / "params")
    assert found.keys() == expected.keys()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("size", ["gemma2_2b", "gemma2_9b", "gemma2_27b"])
def test_real_sizes_are_told_by_their_shapes(size):
    config = getattr(Gemma2Config, size)()
    gate = size != "gemma2_2b"
    assert flax_orbax.has_transposed_gate(config, None, Path()) == gate
    shapes = {p.name: p.shape for p in flax_orbax.flax_tensors(config, transposed_gate=gate)}
    assert flax_orbax.infer_config(shapes, Path()) == config
    gating = shapes["transformer/layer_0/mlp/gating_einsum/w"]
    assert flax_orbax.has_transposed_gate(config, gating, Path()) == gate
    shapes[flax_orbax.TABLE] = (256_000, config.embed_dim)
    assert flax_orbax.infer_config(shapes, Path()).vocab_size == 256_000


def test_a_square_gate_is_refused_before_anything_is_written(tmp_path):
    square = Transformer(dataclasses.replace(CONFIG, mlp_dim=8, num_layers=2), rngs=nnx.Rngs(0))
    with pytest.raises(CheckpointError, match=r"expected mlp_dim other than embed_dim.*both 8"):
        save_checkpoint(square, tmp_path / "a", layout="flax")
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(square, tmp_path / "a")
    assert_same(load_checkpoint(tmp_path / "a"), square)


# Rows


def test_rows_that_stay_keep_their_logits(model):
    tokens = np.arange(12).reshape(1, 12)
    logits = run(model, tokens)
    fewer, more = with_rows(model, 37), with_rows(model, 45)
    assert (fewer.config.vocab_size, more.config.vocab_size) == (37, 45)
    near = {"rtol": 0, "atol": 1e-5}  # another width may be summed in another order
    np.testing.assert_allclose(run(fewer, tokens), logits[..., :37], **near)
    np.testing.assert_allclose(run(more, tokens)[..., :40], logits, **near)
    np.testing.assert_array_equal(run(more, tokens)[..., 40:], 0)
    assert_same(with_rows(more, 40), model)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"rows: expected at least 1, got {wrong}"):
            with_rows(model, wrong)


def test_other_rows_keep_the_settings():
    settings = {"dtype": jnp.bfloat16, "remat": "layer", "attention": "dense"}
    before = nnx.eval_shape(lambda: Transformer(CONFIG, rngs=nnx.Rngs(0), **settings))
    graph, state = nnx.split(before)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    after = with_rows(nnx.merge(graph, zeros), 37)
    config = dataclasses.replace(CONFIG, vocab_size=37)
    expected = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0), **settings))
    assert nnx.graphdef(after) == nnx.graphdef(expected)


def test_only_hugging_face_files_lose_google_s_padding(model, tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "PADDED_ROWS", 40)
    monkeypatch.setattr(hugging_face, "HUGGING_FACE_ROWS", 37)
    save_checkpoint(model, tmp_path / "hf")
    assert_same(load_checkpoint(tmp_path / "hf"), with_rows(model, 37))
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["vocab_size"] == 37
    save_checkpoint(model, tmp_path / "flax", layout="flax")
    assert_same(load_checkpoint(tmp_path / "flax"), model)


# Folders whole or absent


def test_a_tokenizer_is_saved_beside(model, tmp_path):
    texts = [Path(corpus.__file__).with_name("tokenizer.py").read_text()]
    tokenizer = corpus.train_tokenizer(texts, 384)
    with pytest.raises(ValueError, match=r"tokenizer: expected at most 40 ids.* got 384"):
        save_checkpoint(model, tmp_path / "a", tokenizer=tokenizer)
    assert list(tmp_path.iterdir()) == []
    large = with_rows(model, 384)
    for layout in ("hugging_face", "flax"):
        save_checkpoint(large, tmp_path / layout, layout=layout, tokenizer=tokenizer)
        assert Tokenizer.load(tmp_path / layout).digest == tokenizer.digest
        assert_same(load_checkpoint(tmp_path / layout), large)
    about = json.loads((tmp_path / "hugging_face" / "generation_config.json").read_text())
    assert about["eos_token_id"] == [tokenizer.eos, tokenizer.end_of_turn]


def test_what_is_there_is_replaced_only_on_demand(model, tmp_path):
    save_checkpoint(model, tmp_path / "a" / "b", max_shard_bytes=1)
    other = with_rows(model, 9)
    with pytest.raises(FileExistsError, match=r"b: expected nothing there; pass overwrite=True"):
        save_checkpoint(other, tmp_path / "a" / "b")
    assert_same(load_checkpoint(tmp_path / "a" / "b"), model)
    save_checkpoint(other, tmp_path / "a" / "b", layout="flax", overwrite=True)
    assert_same(load_checkpoint(tmp_path / "a" / "b"), other)
    with pytest.raises(CheckpointError, match=r"a: expected .* found b"):
        save_checkpoint(other, tmp_path / "a", overwrite=True)  # no checkpoint: not ours to delete
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("layout", ["hugging_face", "flax"])
def test_a_full_disk_leaves_the_old_one(model, layout, tmp_path):
    """The limit on file sizes makes a real write fail half-way."""
    save_checkpoint(model, tmp_path / "a")
    before = digests(tmp_path / "a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        with pytest.raises(Exception, match=r"(?i)too large"):
            save_checkpoint(model, tmp_path / "a", layout=layout, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert digests(tmp_path / "a") == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("where", ["sync", "rename"])
def test_an_interrupt_leaves_the_old_one(model, where, tmp_path, monkeypatch):
    save_checkpoint(model, tmp_path / "a")
    before = digests(tmp_path / "a")

    def interrupt(*_):
        raise KeyboardInterrupt

    if where == "sync":
        monkeypatch.setattr(writing, "_sync", interrupt)
    else:
        rename = Path.rename

        def second_fails(path, target):
            return interrupt() if path.name.endswith("unfinished") else rename(path, target)

        monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(with_rows(model, 9), tmp_path / "a", overwrite=True)
    assert digests(tmp_path / "a") == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("layout", ["hugging_face", "flax"])
@pytest.mark.parametrize(("value", "name"), [(np.nan, "not-a-number"), (-np.inf, "infinity")])
def test_what_could_not_be_loaded_is_not_saved(model, layout, value, name, tmp_path):
    broken = weights.leaves_of(model)
    path = ("pairs", "global_layer", "mlp", "up")
    broken[path] = broken[path].at[1, 2, 3].set(value)
    tensor = {"hugging_face": "layers.3.mlp.up_proj.weight", "flax": "layer_3/mlp/gating_einsum/w"}
    with pytest.raises(CheckpointError, match=f"{tensor[layout]}: expected finite values.*{name}"):
        save_checkpoint(weights.with_leaves(model, broken), tmp_path / "a", layout=layout)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_told(model, tmp_path):
    with pytest.raises(ValueError, match="max_shard_bytes: expected at least 1, got 0"):
        save_checkpoint(model, tmp_path / "a", max_shard_bytes=0)
    with pytest.raises(ValueError, match=r"config: expected None, as .*config.json says it"):
        load_checkpoint(GOLDENS / "single", config=CONFIG)
    whole = weights.leaves_of(model)
    whole["final_norm", "scale"] = whole["final_norm", "scale"].astype(jnp.int32)
    with pytest.raises(ValueError, match=r"final_norm/scale: expected float32.* got int32"):
        save_checkpoint(weights.with_leaves(model, whole), tmp_path / "a")
