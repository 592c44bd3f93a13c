"""A language whose next-token chances are known exactly: for Table 6 of the Gemma 2 report.

So the lowest loss that any model can reach is a line in the plot, and there is an oracle to learn
from. Unusual: no table of contexts; the chances are a small fixed random network of the last few
tokens, computed where they are needed. A context that the start of the row cuts short is exact too.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from matchbook.corpus.packing import Rows
from matchbook.corpus.synthetic.fresh import Fresh

# Of a token's embedding, and of the hidden layer: few enough for a model of width 64 to learn.
FEATURES = 16
# Standard deviation of the hidden layer's inputs: beyond 1, so that the tokens of a context act
# together (tanh is far from linear there), not one by one.
MIXING = 1.5
# Standard deviation of the logits at temperature 1, about.
SHARPNESS = 2.5


class Estimate(NamedTuple):
    """A mean over a sample, and the standard error that this leaves."""

    mean: float
    standard_error: float


class _Tables(NamedTuple):
    roles: Float[np.ndarray, "order vocab features"]  # what a token adds, by how far back it is
    readout: Float[np.ndarray, "features vocab"]  # of the hidden layer, over the temperature


@dataclasses.dataclass(frozen=True)
class Language:
    """p(next | context) = softmax(W tanh(sum_k R_k E[token k back]) / temperature).

    E, R_k and W are fixed random matrices. Equal languages are interchangeable.

    Attributes:
      vocab_size: tokens; none is special.
      order: how many of the last tokens matter.
      temperature: above 1 nearer to uniform, that is a higher entropy; below 1 a lower one.
      seed: another seed, another language.

    Raises:
      ValueError: sizes below 2 tokens or 1 token of context, or a temperature not above 0.
    """

    vocab_size: int = 256
    order: int = 2
    temperature: int | float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size: expected at least 2 tokens, got {self.vocab_size}")
        if self.order < 1:
            raise ValueError(f"order: expected at least 1 token of context, got {self.order}")
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature}")

    @functools.cached_property
    def _tables(self) -> _Tables:
        random = np.random.default_rng(self.seed)
        embeddings = random.normal(size=(self.vocab_size, FEATURES))
        mixing = random.normal(size=(self.order, FEATURES, FEATURES))
        readout = random.normal(size=(FEATURES, self.vocab_size))
        roles = MIXING / np.sqrt(self.order * FEATURES) * (embeddings @ mixing)
        scale = SHARPNESS / np.sqrt(FEATURES) / self.temperature
        return _Tables(roles.astype(np.float32), (scale * readout).astype(np.float32))

    def log_probs(self, tokens: Int[Array, "rows time"]) -> Float[Array, "rows time vocab"]:
        """Exact: entry [row, t] is the distribution of token t + 1 given tokens 0 to t.

        A row is one document; its very first token is uniform. Nothing is compiled here: use it
        inside compiled code.
        """
        return _log_probs(self._tables, tokens)

    def oracle(self, batch: Rows) -> Float[Array, "rows time vocab"]:
        """The teacher that knows: for `distill.distill_step`, as `language.oracle`."""
        return self.log_probs(jnp.asarray(batch.tokens))

    def entropies(self, tokens: Int[Array, "rows time"]) -> Float[Array, "rows time"]:
        """Entropy, in nats, of what may follow each token: the lowest expected loss there."""
        return _entropies(self._tables, tokens)

    def sample(self, key: PRNGKeyArray, num_rows: int, time: int) -> Int[Array, "rows time"]:
        """Independent rows. One compiled scan for each pair of sizes."""
        return _sample(self._tables, key, num_rows, time)

    def rows(self, num_rows: int, time: int, seed: int) -> Rows:
        """A limited set of rows: to evaluate on, or to repeat through `corpus.batches`."""
        return _as_rows(self.sample(jax.random.key(seed), num_rows, time))

    def stream(self, batch_size: int, time: int, seed: int) -> Fresh[Rows]:
        """Unlimited data: rows that no other step, seed or set of rows has."""
        key = jax.random.fold_in(jax.random.key(seed), 1)

        def batch(step: int) -> Rows:
            return _as_rows(self.sample(jax.random.fold_in(key, step), batch_size, time))

        return Fresh(batch)

    def entropy_rate(self, num_rows: int, time: int, seed: int) -> Estimate:
        """Nats per token below which no model's expected loss can fall, on rows of `time` tokens.

        The mean over a sample of the exact conditional entropy at every position that has a
        target. Rows are independent, so the standard error is that of a mean of row means.

        Raises:
          ValueError: fewer than 2 rows or 2 tokens.
        """
        if num_rows < 2 or time < 2:
            raise ValueError(
                f"expected at least 2 rows, for a standard error, of at least 2 tokens; "
                f"got {num_rows} of {time}"
            )
        key = jax.random.key(seed)
        means = np.asarray(_row_entropies(self._tables, key, num_rows, time), np.float64)
        return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(num_rows)))


def _logits(tables: _Tables, context: Float[Array, "*any features"]) -> Float[Array, "*any vocab"]:
    """From the summed roles of a context's tokens. In full float32 on every device."""
    return jnp.dot(jnp.tanh(context), tables.readout, precision=jax.lax.Precision.HIGHEST)


def _log_probs(tables: _Tables, tokens: Int[Array, "rows time"]) -> Float[Array, "rows time vocab"]:
    roles, time = jnp.asarray(tables.roles), tokens.shape[1]
    context = jnp.zeros((*tokens.shape, FEATURES))
    for back in reversed(range(len(roles))):  # oldest first, as they come in `_sample`
        context += jnp.pad(roles[back][tokens], ((0, 0), (back, 0), (0, 0)))[:, :time]
    return jax.nn.log_softmax(_logits(tables, context))


def _entropies(tables: _Tables, tokens: Int[Array, "rows time"]) -> Float[Array, "rows time"]:
    log_probs = _log_probs(tables, tokens)
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _sample(
    tables: _Tables, key: PRNGKeyArray, num_rows: int, time: int
) -> Int[Array, "rows time"]:
    def draw(
        coming: Float[Array, "order rows features"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "order rows features"], Int[Array, " rows"]]:
        """`coming[k]` is the context so far of the token k places on."""
        token = jax.random.categorical(key, _logits(tables, coming[0]))
        later = jnp.pad(coming[1:], ((0, 1), (0, 0), (0, 0)))
        return later + tables.roles[:, token], token

    nothing = jnp.zeros((len(tables.roles), num_rows, FEATURES))
    _, tokens = jax.lax.scan(draw, nothing, jax.random.split(key, time))
    return tokens.T


@functools.partial(jax.jit, static_argnums=(2, 3))
def _row_entropies(
    tables: _Tables, key: PRNGKeyArray, num_rows: int, time: int
) -> Float[Array, " rows"]:
    tokens = _sample(tables, key, num_rows, time)
    # Row by row: all at once would hold [rows, time, vocab].
    return jax.lax.map(lambda row: _entropies(tables, row[None])[0, :-1].mean(), tokens)


def _as_rows(tokens: Int[Array, "rows time"]) -> Rows:
    num_rows, time = tokens.shape
    positions = np.tile(np.arange(time, dtype=np.int32), (num_rows, 1))
    return Rows(np.asarray(tokens), positions, np.ones_like(positions))
