"""Hugging Face's layout: config.json, and safetensors in one file or in shards with an index.

The output projection is the table (tied), so `lm_head.weight` is not part of the layout; where a
file repeats the table under that name, it must be the same numbers.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from matchbook.gemma.checkpoints.checking import check_layers, check_tensors
from matchbook.gemma.checkpoints.errors import CheckpointError, shape_text
from matchbook.gemma.checkpoints.json_files import read_object
from matchbook.gemma.checkpoints.recognising import INDEX, SINGLE
from matchbook.gemma.checkpoints.safetensors_files import NewTensor, SafetensorsFile, write
from matchbook.gemma.checkpoints.weights import (
    HostWeights,
    checked_blocks,
    choose_dtype,
    host_slice,
    leaves_of,
)
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.layouts import HUGGING_FACE_ROWS, PADDED_ROWS
from matchbook.gemma.mapping import hugging_face_tensors
from matchbook.gemma.model import Transformer

CONFIG, GENERATION = "config.json", "generation_config.json"
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def load(folder: Path, dtype: DTypeLike | None) -> Transformer:
    """The model in a folder of this layout; raises CheckpointError, see `load_checkpoint`."""
    config = read_config(folder / CONFIG)
    files = _open(folder)
    check_layers(config, files, folder, CONFIG)
    places = {place.name: place for place in hugging_face_tensors(config)}
    shapes = {name: file.tensors[name].shape for name, file in files.items() if name != HEAD}
    check_tensors(places.values(), shapes, folder, lambda name: files[name].path, CONFIG)
    if HEAD in files:
        _check_head(files[HEAD], files[TABLE])
    stored = {files[name].tensors[name].dtype for name in places}
    host = HostWeights(config, choose_dtype(dtype, stored))
    in_file_order = sorted(
        places, key=lambda name: (files[name].path, files[name].tensors[name].start)
    )
    for name in in_file_order:
        for rows, block in files[name].blocks(name):
            host.fill(places[name], rows, block, files[name].path)
    return host.to_model()


def read_config(path: Path) -> Gemma2Config:
    """The config that a `config.json` describes; raises CheckpointError where it is not one."""
    mapping = read_object(path)
    try:
        return Gemma2Config.from_hf(mapping)
    except ValueError as error:
        raise CheckpointError(path, expected="the config of a Gemma 2", found=str(error)) from error


def save(
    model: Transformer, folder: Path, max_shard_bytes: int, stop_tokens: tuple[int, ...]
) -> None:
    """Write a model into an empty folder, table padding dropped; see `save_checkpoint`."""
    padded = model.config.vocab_size == PADDED_ROWS
    rows = HUGGING_FACE_ROWS if padded else model.config.vocab_size
    config = dataclasses.replace(model.config, vocab_size=rows)
    leaves = leaves_of(model)
    tensors = []
    for place in hugging_face_tensors(config):
        leaf = leaves[place.path]

        def array(place=place, leaf=leaf) -> np.ndarray:
            ours = host_slice(leaf, place)
            return place.to_theirs(ours[:rows] if place.name == TABLE else ours)

        blocks = checked_blocks(array, place.name, folder)
        tensors.append(NewTensor(place.name, np.dtype(leaf.dtype), place.shape, blocks))
    _write_shards(folder, tensors, max_shard_bytes)
    about = config.to_hf() | {"torch_dtype": str(leaves["embedder", "table"].dtype)}
    write_json(folder / CONFIG, about)
    special = {key: about[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if stop_tokens:
        special["eos_token_id"] = list(stop_tokens)
    write_json(folder / GENERATION, special)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A new JSON file, in the order of the keys."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _open(folder: Path) -> dict[str, SafetensorsFile]:
    """Tensor name -> its file, of one file or of all shards."""
    if (folder / SINGLE).exists():
        file = SafetensorsFile(folder / SINGLE)
        return dict.fromkeys(file.tensors, file)
    index = folder / INDEX
    shard_of = _read_index(index)
    shards = {shard: SafetensorsFile(folder / shard) for shard in sorted(set(shard_of.values()))}
    for name, shard in shard_of.items():
        if name not in shards[shard].tensors:
            raise CheckpointError(
                folder / shard, name, expected=f"it, as {INDEX} says", found="no such tensor"
            )
    for shard, file in shards.items():
        for name in file.tensors:
            if shard_of.get(name) != shard:
                where = shard_of.get(name, "nowhere")
                raise CheckpointError(
                    index, name, expected=f"it in {shard}, where it is", found=f"it in {where}"
                )
    return {name: shards[shard] for name, shard in shard_of.items()}


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name, of files in this very folder."""
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            path, "weight_map", expected="tensor names and files", found=repr(weight_map)[:80]
        )
    for name, shard in weight_map.items():
        plain = isinstance(shard, str) and shard.endswith(".safetensors")
        if not plain or "/" in shard or "\\" in shard or "\0" in shard:
            raise CheckpointError(
                path, name, expected="a .safetensors file of this folder", found=repr(shard)[:80]
            )
    return weight_map


def _check_head(head: SafetensorsFile, table: SafetensorsFile) -> None:
    """Refuses an output projection that is not the table."""
    expected, found = table.tensors[TABLE].shape, head.tensors[HEAD].shape
    if expected != found:
        raise CheckpointError(
            head.path, HEAD, expected=shape_text(expected), found=shape_text(found)
        )
    # Types may differ and then so do the blocks, so values are compared row by row of the smaller.
    for (rows, block), (same_rows, repeated) in zip(table.blocks(TABLE), head.blocks(HEAD)):
        if rows != same_rows or not np.array_equal(block, repeated, equal_nan=False):
            raise CheckpointError(
                head.path,
                HEAD,
                expected=f"the numbers of {TABLE}: Gemma 2 is tied",
                found=f"others in rows {rows.start} to {rows.stop}",
            )


def _write_shards(folder: Path, tensors: list[NewTensor], max_shard_bytes: int) -> None:
    shards: list[list[NewTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    if len(shards) == 1:
        write(folder / SINGLE, tensors)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write(folder / name, shard)
        weight_map |= dict.fromkeys((tensor.name for tensor in shard), name)
    total = sum(tensor.nbytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / INDEX, index)
