"""`load_checkpoint` and `save_checkpoint`: one call for both layouts, on folders whole or absent.

Unusual: peak host memory is that of the model and a few blocks, in both directions (at most 1.15
times the model, tested), and whatever is wrong with a file is one `CheckpointError`.
"""

import os
from pathlib import Path
from typing import Literal

from jax.typing import DTypeLike

from matchbook.gemma.checkpoints import hugging_face
from matchbook.gemma.checkpoints.recognising import recognise
from matchbook.gemma.checkpoints.writing import new_folder
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.model import Transformer
from matchbook.gemma.tokenizer import FILE, Tokenizer

SHARD_BYTES = 5_000_000_000
PARAMS = "params"  # the Orbax folder inside one of ours; Google names it after the size


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    config: Gemma2Config | None = None,
) -> Transformer:
    """The Gemma 2 in a folder: Hugging Face's safetensors or Google's Flax/Orbax tree.

    The layout is told by the content. The model has the rows that the file has (256,000 in Hugging
    Face's, 256,128 in Google's): nothing is cut or padded, see `with_rows`. Its weights go to the
    default device, and on a CPU are the very arrays that the file was read into.

    Args:
      path: the folder; for Google's layout the Orbax folder itself or the one around it.
      dtype: of weights and activations: float32, bfloat16 or float16; by default that of the file,
        and float32 where a file mixes several.
      config: what an Orbax tree does not say, needed where there is no config.json beside it and
        the sizes are none of 2B, 9B and 27B.

    Raises:
      CheckpointError: the folder holds no such checkpoint, or a file is cut short, contradicts
        itself or its config, or has values that are not finite; names file, tensor, expected and
        found. No code from a file is ever run.
      ValueError: another `dtype`, or a `config` beside a config.json.
    """
    found = recognise(Path(path))
    beside = Path(path) / hugging_face.CONFIG
    if config is not None and beside.exists():
        raise ValueError(f"config: expected None, as {beside} says it; change that file instead")
    if found.layout == "hugging_face":
        return hugging_face.load(found.folder, dtype)
    from matchbook.gemma.checkpoints import flax_orbax  # Orbax takes a second to import

    if beside.exists():
        config = hugging_face.read_config(beside)
    source = "the config passed" if not beside.exists() else hugging_face.CONFIG
    return flax_orbax.load(found.folder, dtype, config, source)


def save_checkpoint(
    model: Transformer,
    path: str | os.PathLike[str],
    *,
    layout: Literal["hugging_face", "flax"] = "hugging_face",
    max_shard_bytes: int = SHARD_BYTES,
    tokenizer: Tokenizer | None = None,
    overwrite: bool = False,
) -> None:
    """Save a model as a folder that transformers (or Google's Flax code) loads.

    Written beside its place, synced and renamed: whatever interrupts it, what was at `path` before
    is still whole. Weights keep their dtype.

    Args:
      model: its weights may lie on any device of this process.
      path: the new folder.
      layout: "hugging_face": config.json, generation_config.json and model.safetensors, or shards
        with an index. A table of Google's 256,128 rows loses the 128 that stand for no token.
        "flax": an Orbax folder `params` with Google's tree, rows as they are, and beside it a
        config.json that Google's code does not need and `load_checkpoint` reads.
      max_shard_bytes: a Hugging Face file larger than this is cut into shards, between tensors.
      tokenizer: saved beside the weights as tokenizer.model.
      overwrite: whether a checkpoint that is there already may be replaced.

    Raises:
      FileExistsError: something is at `path` and `overwrite` is False.
      CheckpointError: weights that are not finite, or `overwrite` of what is not a checkpoint.
      ValueError: an unknown layout, a shard size below 1, or a tokenizer with more ids than rows.
    """
    if layout not in ("hugging_face", "flax"):
        raise ValueError(f"layout: expected 'hugging_face' or 'flax', got {layout!r}")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes: expected at least 1, got {max_shard_bytes}")
    if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"tokenizer: expected at most {model.config.vocab_size:,} ids, one for each row of "
            f"the table, got {tokenizer.vocab_size:,}"
        )
    with new_folder(Path(path), overwrite=overwrite, may_replace=recognise) as folder:
        if layout == "hugging_face":
            stop_tokens = tokenizer.stop_tokens if tokenizer else ()
            hugging_face.save(model, folder, max_shard_bytes, stop_tokens)
        else:
            from matchbook.gemma.checkpoints import flax_orbax

            flax_orbax.save(model, folder / PARAMS)
            hugging_face.write_json(folder / hugging_face.CONFIG, model.config.to_hf())
        if tokenizer is not None:
            tokenizer.save(folder / FILE)
