"""Bad checkpoints: each is one CheckpointError that names file, tensor, expected and found."""

import json
import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from matchbook.gemma import Gemma2Config
from matchbook.gemma.checkpoints import CheckpointError, load_checkpoint
from matchbook.gemma.checkpoints.safetensors_files import SafetensorsFile
from matchbook.gemma.mapping import flax_tensors

GOLDENS = Path(__file__).parents[1] / "goldens" / "gemma2_checkpoints"
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = "model-00002-of-00003.safetensors"
UP, NORM = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"


@pytest.fixture(params=["single", "sharded"])
def folder(request, tmp_path) -> Path:
    return shutil.copytree(GOLDENS / request.param, tmp_path / "checkpoint")


@pytest.fixture
def single(tmp_path) -> Path:
    return shutil.copytree(GOLDENS / "single", tmp_path / "single")


@pytest.fixture
def sharded(tmp_path) -> Path:
    return shutil.copytree(GOLDENS / "sharded", tmp_path / "sharded")


def refused(folder: Path, message: str, file: str | None = None) -> CheckpointError:
    """The error of loading, which must say this of this file."""
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    assert caught.value.file == (folder / file if file else folder)
    assert str(caught.value.file) in str(caught.value)
    assert caught.value.expected in str(caught.value)
    assert caught.value.found in str(caught.value)
    return caught.value


def change_header(path: Path, change) -> None:
    """Rewrites the header of a file, leaving the tensors' bytes as they are."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header = change(header) or header
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + length :])


def change_json(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


# The file as such


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 5_000, 24_007])
def test_a_file_cut_short(single, kept):
    path = single / ONE
    assert path.stat().st_size == 24_008
    path.write_bytes(path.read_bytes()[:kept])
    refused(single, "cut short", ONE)


def test_a_shard_cut_short(sharded):
    path = sharded / SHARD
    path.write_bytes(path.read_bytes()[:-1])
    error = refused(sharded, "expected a file of at least 9,896 bytes, found 9,895", SHARD)
    assert error.tensor is not None


def test_bytes_that_belong_to_no_tensor(single):
    path = single / ONE
    path.write_bytes(path.read_bytes() + b"x")
    refused(single, "expected a file of 24,008 bytes.* found 24,009", ONE)


@pytest.mark.parametrize("length", [0, 1, 24_001, 10**9, 2**63, 2**64 - 1])
def test_a_header_length_that_lies(single, length):
    path = single / ONE
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    error = refused(single, f"expected its length, 2 to 24,000 bytes.*found {length:,}", ONE)
    assert error.tensor == "header"


def test_a_file_that_shrinks_while_it_is_read(single):
    file = SafetensorsFile(single / ONE)
    os.truncate(single / ONE, 10_000)
    message = "the end of the file: it changed while being read"
    with pytest.raises(CheckpointError, match=message):
        [list(file.blocks(name)) for name in file.tensors]


class Trap:
    """A pickle that would leave a mark where it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_in_disguise(single, tmp_path, protocol, zipped):
    trap = pickle.dumps(Trap(tmp_path / "sprung"), protocol)
    path = single / ONE
    path.write_bytes(trap)
    if zipped:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", trap)
    refused(single, "expected a safetensors file, found a pickle.* could run code", ONE)
    shutil.move(path, single / "pytorch_model.bin")
    refused(single, r"found pytorch_model.bin, a pickle \(loading one could run code")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a page of markup"),
    ],
)
def test_other_files_by_this_name(single, start, kind):
    (single / ONE).write_bytes(start + b"0" * 100)
    refused(single, f"expected a safetensors file, found {kind}", ONE)


def test_a_header_of_640_bytes_is_no_pickle(single):
    """Its length begins with the bytes of one: 0x80, 0x02."""
    path = single / ONE
    save_file({NORM: np.zeros(4, np.float32)}, path)
    change_header(path, lambda header: json.dumps(header).encode().ljust(640))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert SafetensorsFile(path).tensors[NORM].shape == (4,)


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(single):
    (single / ONE).unlink()
    os.mkfifo(single / ONE)
    refused(single, "expected a safetensors file, found no such file", ONE)
    (single / "config.json").unlink()
    os.mkfifo(single / "config.json")
    refused(single, "expected a JSON file, found no such file", "config.json")


# The header


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "header.*then a JSON object"),
        (b'{"a"', "expected JSON, found"),
        (b'{"a":' * 100_000, "expected JSON, found"),
        (b'{"a":1,"a":2}', "a: expected each key once, found it twice"),
        (b'{"\xff":1}', "expected JSON, found"),
        (b"{}", r"expected a file of 10 bytes.* found"),
        (b'{"a":{"dtype":"F32"}}', "a: expected dtype, shape and data_offsets, found"),
        (b'{"a":7}', "a: expected dtype, shape and data_offsets, found 7"),
    ],
)
def test_a_header_that_is_none(single, content, message):
    change_header(single / ONE, lambda _: content)
    refused(single, message, ONE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "I32"}, "expected dtype BF16, F16, F32, found dtype 'I32'"),
        ({"dtype": "F8_E4M3"}, "expected dtype BF16, F16, F32, found dtype 'F8_E4M3'"),
        ({"dtype": ["F32"]}, "expected dtype BF16, F16, F32, found dtype"),
        ({"dtype": "BF16"}, r"expected 32 bytes for shape \[16\] of BF16, found offsets"),
        ({"shape": [17]}, r"expected 68 bytes for shape \[17\] of F32, found offsets"),
        ({"shape": [-16]}, r"expected a shape of one or two dimensions, found \[-16\]"),
        ({"shape": [True]}, r"expected a shape of one or two dimensions, found \[True\]"),
        ({"shape": [16.0]}, "expected a shape of one or two dimensions, found"),
        ({"shape": []}, "expected a shape of one or two dimensions, found"),
        ({"shape": [2, 2, 4]}, "expected a shape of one or two dimensions, found"),
        ({"shape": 16}, "expected a shape of one or two dimensions, found 16"),
        ({"shape": [2**61, 2**61]}, "expected .* bytes for shape"),
        ({"shape": [10**4000]}, "expected a shape of one or two dimensions, found"),
        ({"data_offsets": [0, 64]}, "expected offset .* overlap or leave a hole"),
        ({"data_offsets": [2**40, 2**40 + 64]}, "expected offset .* overlap or leave a hole"),
        ({"data_offsets": [64, 0]}, "expected 64 bytes .* found offsets"),
        ({"data_offsets": [-64, 0]}, "expected two offsets, found"),
        ({"data_offsets": [0]}, "expected two offsets, found"),
        ({"data_offsets": "0"}, "expected two offsets, found '0'"),
    ],
)
def test_an_entry_that_lies(single, changes, message):
    change_header(single / ONE, lambda header: header[NORM].update(changes))
    refused(single, message, ONE)


@settings(max_examples=200, deadline=2_000)
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_random_damage_is_found_or_harmless(tmp_path_factory, rng: random.Random, bytes_changed):
    """Damage to a header gives our error or a table that lies within the file."""
    content = bytearray((GOLDENS / "single" / ONE).read_bytes())
    for _ in range(bytes_changed):
        content[rng.randrange(2_600)] = rng.choice(b'0123456789{}[]",:\x00\xff-eEa')
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    assert sum(tensor.nbytes for tensor in file.tensors.values()) < len(content)


# Tensors that are not those of the config


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / ONE)
    tensors = change(tensors) or tensors
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / ONE)


def test_a_missing_tensor(single):
    change_tensors(single, lambda tensors: {n: t for n, t in tensors.items() if n != UP})
    error = refused(
        single, r"expected shape \[24, 16\], found no such tensor \(1 of 24 are missing"
    )
    assert error.tensor == UP


def test_an_extra_tensor(single):
    extra = "model.layers.1.self_attn.q_norm.weight"
    change_tensors(single, lambda tensors: tensors | {extra: np.zeros(6, np.float32)})
    error = refused(single, r"expected only the 24 tensors.*found another one, of shape \[6\]", ONE)
    assert error.tensor == extra


@pytest.mark.parametrize(
    ("name", "shape"), [(UP, (16, 24)), (NORM, (17,)), ("model.embed_tokens.weight", (41, 16))]
)
def test_a_misshaped_tensor(single, name, shape):
    change_tensors(single, lambda tensors: tensors | {name: np.zeros(shape, np.float32)})
    error = refused(single, "by config.json; 1 of 24 tensors differ", ONE)
    assert (error.tensor, error.found) == (name, f"shape {list(shape)}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "expected finite values, found not-a-number"),
        (np.inf, "expected finite values, found infinity"),
        (-np.inf, "expected finite values, found infinity"),
    ],
)
def test_values_that_are_not_finite(single, value, message):
    def change(tensors):
        tensors[UP] = tensors[UP].copy()
        tensors[UP][23, 15] = value

    change_tensors(single, change)
    assert refused(single, message, ONE).tensor == UP


def test_values_beyond_the_wanted_dtype(single):
    change_tensors(single, lambda tensors: tensors | {NORM: np.full(16, 1e5, np.float32)})
    load_checkpoint(single)
    with pytest.raises(CheckpointError, match=f"{NORM}: expected values within float16, found 1e"):
        load_checkpoint(single, dtype="float16")


# The config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 32}, r"expected shape \[32, 16\], found shape \[24, 16\].*6 of 24"),
        ({"hidden_size": 10**12}, r"expected shape .* of 24 tensors differ"),
        ({"vocab_size": 48}, r"embed_tokens.weight: expected shape \[48, 16\].*1 of 24"),
        ({"num_attention_heads": 8}, r"q_proj.weight: expected shape \[48, 16\].*4 of 24"),
        ({"num_key_value_heads": 4}, r"k_proj.weight: expected shape \[24, 16\].*4 of 24"),
    ],
)
def test_a_config_that_contradicts_the_weights(single, changes, message):
    change_json(single / "config.json", **changes)
    assert refused(single, message, ONE).tensor is not None


@pytest.mark.parametrize("layers", [4, 10**12])
def test_a_config_with_other_layers(single, layers):
    change_json(single / "config.json", num_hidden_layers=layers, layer_types=None)
    refused(single, f"expected {layers:,} layers, as config.json says, found tensors of 2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "model_type: expected 'gemma2', found 'gemma'"),
        ({"num_hidden_layers": 10**12}, "layer_types: expected 1000000000000 entries"),
        ({"layer_types": 5}, "layer_types: expected 2 entries"),
        ({"hidden_size": "16"}, "hidden_size: expected an integer, found '16'"),
        ({"hidden_size": None}, "hidden_size: expected an integer, found None"),
        ({"rms_norm_eps": float("nan")}, "norm_eps: expected a positive number, got nan"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings: expected True, found False"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: expected None, found"),
    ],
)
def test_a_config_of_something_else(single, changes, message):
    change_json(single / "config.json", **changes)
    refused(single, f"expected the config of a Gemma 2, found {message}", "config.json")


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[1]", "null", '{"a":1,"a":1}', "\0"])
def test_a_config_that_is_no_json(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder, "expected .*(JSON|each key once)", "config.json")


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(folder, "expected a JSON file, found no such file", "config.json")


def test_an_endless_config(single):
    with (single / "config.json").open("ab") as file:
        file.truncate(10**10)  # a hole, not bytes
    refused(single, "expected at most 16,777,216 bytes, found 10,000,000,000", "config.json")


# Shards and their index


def change_map(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_a_missing_shard(sharded):
    (sharded / SHARD).unlink()
    refused(sharded, "expected a safetensors file, found no such file", SHARD)


def test_an_index_that_names_what_a_shard_has_not(sharded):
    change_map(sharded, lambda names: names.update({"model.layers.9.x": SHARD}))
    error = refused(sharded, "expected it, as model.safetensors.index.json says, found", SHARD)
    assert error.tensor == "model.layers.9.x"


def test_an_index_without_a_tensor(sharded):
    change_map(sharded, lambda names: names.pop(NORM))
    assert refused(sharded, "expected it in .*, where it is, found it in nowhere", INDEX).tensor


def test_an_index_with_a_tensor_in_another_shard(sharded):
    other = SHARD.replace("00002", "00001")

    def swap(names):
        names[next(name for name, shard in names.items() if shard == SHARD)] = other

    change_map(sharded, swap)
    refused(sharded, "expected it, as model.safetensors.index.json says", other)


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "x\0.safetensors",
        "..",
        "x.bin",
        "",
        None,
        5,
        ["x"],
    ],
)
def test_an_index_that_leaves_the_folder(sharded, shard):
    change_map(sharded, lambda names: names.update({NORM: shard}))
    error = refused(sharded, "expected a .safetensors file of this folder, found", INDEX)
    assert error.tensor == NORM


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map":{}}', '{"weight_map":[1]}'])
def test_an_index_that_is_none(sharded, content):
    (sharded / INDEX).write_text(content)
    refused(sharded, "expected", INDEX)


# The folder


def test_folders_that_hold_no_checkpoint(tmp_path, single):
    refused(tmp_path / "nowhere", "expected a checkpoint folder, found nothing there")
    refused(single / ONE, r"expected a checkpoint folder, found a file \(pass the folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "found an empty folder")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "gemma-2.Q4_K.gguf").write_bytes(b"GGUF")
    refused(tmp_path / "gguf", "found gemma-2.Q4_K.gguf, a GGUF file")
    (single / ONE).unlink()
    refused(single, r"expected model.safetensors or .* found config.json, generation_config.json")


def test_two_checkpoints_in_one_folder(single):
    shutil.copy(GOLDENS / "sharded" / INDEX, single)
    refused(single, r"expected one checkpoint, found model.safetensors, model.safetensors.index")


# Google's layout

CONFIG = Gemma2Config(
    vocab_size=12, embed_dim=4, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=2, mlp_dim=6
)
QUERY = "transformer/layer_1/attn/q_einsum"


def google(folder: Path, **changes) -> Path:
    """A good tree, but for leaves that are given; None leaves one out."""
    tree: dict[str, dict[str, jax.Array]] = {}
    for place in flax_tensors(CONFIG, transposed_gate=True):
        key, last = place.name.rsplit("/", 1)
        tree.setdefault(key, {})[last] = jnp.ones(place.shape, jnp.bfloat16)
    tree |= {key: {"w": leaf} for key, leaf in changes.items()}
    tree = {key: leaves for key, leaves in tree.items() if None not in leaves.values()}
    ocp.PyTreeCheckpointer().save(folder / "orbax", tree)
    return folder


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (None, r"q_einsum/w: expected shape \[2, 4, 2\], found no such tensor \(1 of 20"),
        (jnp.ones((2, 4, 3)), r"q_einsum/w: expected shape \[2, 4, 2\], found shape \[2, 4, 3\]"),
        (jnp.ones((2, 4, 2), jnp.int32), "q_einsum/w: expected bfloat16, .* found int32"),
        (jnp.full((2, 4, 2), jnp.nan), "q_einsum/w: expected finite values, found not-a-number"),
    ],
)
def test_a_leaf_that_is_wrong(tmp_path, leaf, message):
    google(tmp_path, **{QUERY: leaf})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path, config=CONFIG)
    assert caught.value.file == tmp_path / "orbax"


def test_an_extra_leaf_and_other_layers(tmp_path):
    google(tmp_path / "a", **{"transformer/layer_1/attn/_query_norm": jnp.ones(2)})
    with pytest.raises(CheckpointError, match=r"_query_norm/w: expected only the 20 tensors"):
        load_checkpoint(tmp_path / "a", config=CONFIG)
    google(tmp_path / "b", **{"transformer/layer_3/attn/q_einsum": jnp.ones((2, 4, 2))})
    with pytest.raises(
        CheckpointError, match=r"expected 2 layers, as the config passed says.*of 4"
    ):
        load_checkpoint(tmp_path / "b", config=CONFIG)


# TensorStore tells a loop that is closed by then of what else it could not open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_orbax_folders_that_are_damaged(tmp_path):
    """Every file of the merged tree, cut in half; `ocdbt.process_0` holds the log it came from."""
    good = google(tmp_path / "good")
    assert load_checkpoint(good, config=CONFIG).config == CONFIG
    orbax = good / "orbax"
    whole = [orbax / "_METADATA", orbax / "manifest.ocdbt", *(orbax / "d").iterdir()]
    assert len(whole) >= 3
    for i, file in enumerate(whole):
        copy = shutil.copytree(good, tmp_path / str(i))
        os.truncate(copy / file.relative_to(good), file.stat().st_size // 2)
        with pytest.raises(CheckpointError, match="expected what Orbax can read, found"):
            load_checkpoint(copy, config=CONFIG)
