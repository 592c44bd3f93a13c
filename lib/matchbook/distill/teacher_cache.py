"""A teacher's answers kept for later: its k most likely tokens, and one bucket for all others.

Gemma 2 is silent on how its teachers' targets were stored. Unusual: nothing is renormalised. The
full log-normaliser is known, so kept probabilities are the teacher's own and the rest is a sum.
Putting outcomes into one bucket can only lower a divergence (data processing; for the KL it is the
log-sum inequality), so what is trained on is a true lower bound: it grows with k up to the full
divergence. This file is arrays alone; `corpus.token_store` keeps them on disk.
"""

import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from matchbook import divergences
from matchbook.distill.chunked import Divergence
from matchbook.distill.chunks import SumAndCount, in_chunks, project_to_vocab, sum_over_tokens
from matchbook.gemma import Gemma2Config
from matchbook.gemma.layers import soft_cap


class TopK(NamedTuple):
    """What is kept for each position, at temperature 1.

    ids: the k most likely tokens, most likely first, [*batch, k].
    logits: their float32 logits after the soft-cap, [*batch, k].
    log_rest: float32 logsumexp of the capped logits of all *other* tokens, [*batch]; -inf where
      all are kept. It is the bucket, which 1 less the kept probabilities would lose to rounding
      where the teacher is sure.
    """

    ids: Integer[Array | np.ndarray, "*batch k"]
    logits: Float[Array | np.ndarray, "*batch k"]
    log_rest: Float[Array | np.ndarray, "*batch"]

    @property
    def log_normalizer(self) -> Float[Array, "*batch"]:
        """logsumexp of all capped logits: `logits` less this are the teacher's log-probabilities.

        To float32's rounding.
        """
        return jnp.logaddexp(jax.nn.logsumexp(jnp.asarray(self.logits), axis=-1), self.log_rest)

    def first(self, k: int) -> "TopK":
        """The same with fewer tokens kept, so that one cache shows the bias for every smaller k.

        Raises:
          ValueError: `k` is not between 1 and what is kept.
        """
        kept = self.ids.shape[-1]
        if not 1 <= k <= kept:
            raise ValueError(f"k: expected between 1 and the {kept} tokens kept, got {k}")
        dropped = jnp.concatenate([self.logits[..., k:], self.log_rest[..., None]], axis=-1)
        log_rest = jax.nn.logsumexp(dropped, axis=-1)
        return TopK(self.ids[..., :k], self.logits[..., :k], log_rest)


def top_k(
    hidden: Float[Array, "*batch embed"],
    table: Float[Array, "vocab embed"],
    k: int,
    *,
    softcap: int | float | None,
    chunk_size: int | None = None,
) -> TopK:
    """The teacher's k best tokens at each position, from its stream after the final norm.

    Logits exist for `chunk_size` tokens at a time, as in `chunked_distillation_loss`. Ids are
    int32 here; `row_dtype` says how they are stored.

    Raises:
      ValueError: `k` is not between 1 and the size of the vocabulary.
    """
    if not 1 <= k <= len(table):
        raise ValueError(f"k: expected between 1 and {len(table)} tokens to keep, got {k}")
    weights = table.astype(hidden.dtype)

    def of_chunk(hidden: Array) -> TopK:
        logits = soft_cap(project_to_vocab(hidden, weights), softcap)
        kept, ids = jax.lax.top_k(logits, k)
        others = jnp.put_along_axis(logits, ids, -jnp.inf, axis=-1, inplace=False)
        return TopK(ids, kept, jax.nn.logsumexp(others, axis=-1))

    batch = hidden.shape[:-1]
    chunks = jax.lax.map(of_chunk, in_chunks(hidden, batch, chunk_size, len(table)))

    def joined(x: Array) -> Array:
        flat = x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
        tokens = flat[: hidden.size // hidden.shape[-1]]
        return tokens.reshape(*batch, *x.shape[2:])

    return jax.tree.map(joined, chunks)


def top_k_loss(
    hidden: Float[Array, "*batch embed"],
    table: Float[Array, "vocab embed"],
    cached: TopK,
    where: Bool[Array, "*batch"],
    divergence: Divergence = divergences.forward_kl,
    *,
    softcap: int | float | None,
    chunk_size: int | None = None,
) -> SumAndCount:
    """Divergence over k + 1 outcomes, the kept tokens and the bucket, at temperature 1.

    At each position at most the divergence over the vocabulary, for every one of `divergences`,
    never less for a larger k, and equal to it where everything is kept. Its gradient in the student
    moves the kept tokens and the bucket as a whole; within the bucket the student keeps its own
    proportions. The student's bucket is summed over its own logits, not taken as 1 less the rest.

    Args:
      hidden: the student's stream after its final norm.
      table: the student's embedding table.
      cached: of the teacher, at the same positions and over the same vocabulary; an id beyond it
        gives NaN.
      where: positions that count.
      divergence: as in `chunked_distillation_loss`.
      softcap: the student's final soft-cap; None for none.
      chunk_size: as in `chunked_distillation_loss`.

    Returns:
      The float32 sum in nats over the positions that count, and their number.
    """
    return sum_over_tokens(
        functools.partial(_bucket_rows, divergence),
        hidden,
        table,
        where,
        softcap=softcap,
        per_token=jax.tree.map(jnp.asarray, cached),
        shared=None,
        chunk_size=chunk_size,
    )


def _bucket_rows(divergence: Divergence, logits: Array, cached: TopK, _: None) -> Array:
    log_probs = jax.nn.log_softmax(logits)
    ids = jnp.asarray(cached.ids, jnp.int32)
    model = jnp.take_along_axis(log_probs, ids, axis=-1, mode="fill")
    target = jnp.asarray(cached.logits)
    if ids.shape[-1] < logits.shape[-1]:
        others = jnp.put_along_axis(log_probs, ids, -jnp.inf, axis=-1, inplace=False)
        rest = jax.nn.logsumexp(others, axis=-1, keepdims=True)
        model = jnp.concatenate([model, rest], axis=-1)
        target = jnp.concatenate([target, jnp.asarray(cached.log_rest)[:, None]], axis=-1)
    return divergence(jax.nn.log_softmax(target), model)


def row_dtype(k: int, vocab_size: int) -> np.dtype:
    """How one position is stored: ``6 * k + 4`` bytes up to 65,536 tokens, beyond ``8 * k + 4``.

    Logits stay float32: bfloat16 would spare a quarter of Gemma 2's 516 bytes at k = 64, and
    round a logit of 20 by up to 1/16, its probability by 6 %. All float32 logits of a position
    would be 1,024,512 bytes.
    """
    ids = "<u2" if vocab_size <= 2**16 else "<u4"
    return np.dtype([("ids", ids, (k,)), ("logits", "<f4", (k,)), ("log_rest", "<f4")])


def to_rows(cached: TopK, vocab_size: int) -> np.ndarray:
    """The cache as rows of `row_dtype`, [positions], to be appended to a store."""
    k = cached.ids.shape[-1]
    rows = np.empty(np.asarray(cached.log_rest).size, row_dtype(k, vocab_size))
    for name, values in cached._asdict().items():
        rows[name] = np.asarray(values).reshape(rows[name].shape)
    return rows


def from_rows(rows: np.ndarray) -> TopK:
    """The inverse of `to_rows`, for rows of any shape; ids become int32, which JAX can index by."""
    return TopK(
        ids=rows["ids"].astype(np.int32),
        logits=np.ascontiguousarray(rows["logits"]),
        log_rest=np.ascontiguousarray(rows["log_rest"]),
    )


def content_key(inputs: Any, config: Gemma2Config, weights: Any, k: int) -> dict[str, Any]:
    """What a cache is of: two caches with equal keys hold the same answers.

    Args:
      inputs: arrays that the teacher reads, in the cache's order: tokens, positions and segments.
      config: the teacher's; its window matters as much as its weights.
      weights: the teacher's.
      k: tokens kept for each position.
    """
    return {
        "inputs": digest(inputs),
        "teacher": digest((repr(config), weights)),
        "softcap": config.final_softcap,
        "k": k,
    }


def digest(tree: Any) -> str:
    """64 hex digits of a tree's structure, dtypes, shapes and values."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        place = jax.tree_util.keystr(path)
        if isinstance(leaf, str):
            total.update(f"{place} {leaf}\n".encode())
            continue
        array = np.asarray(leaf)
        total.update(f"{place} {array.dtype.name} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return total.hexdigest()
