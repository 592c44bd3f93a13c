"""What a teacher's targets look like: how much lies on its first choice, its second, and so on.

Text says one token at each place, a teacher gives chances to all. If the chances it gives to its
k-th choice equal how often the text has that choice, the teacher says what the text would say on
average over many repeats: the same lesson with less noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from matchbook.distill.losses import next_token_targets
from matchbook.distill.models import Batch, Teacher, logits_of


class Choices(NamedTuple):
    """By rank of the teacher's choice, most likely first: both sum to 1 over all the vocabulary.

    probability: what the teacher gives to this rank, mean over the targets.
    frequency: share of the targets where this rank is the text's token.
    """

    probability: Float[np.ndarray, " ranks"]
    frequency: Float[np.ndarray, " ranks"]


def rank_choices(teacher: Teacher, batch: Batch, num_ranks: int) -> Choices:
    """The teacher's choices over a batch, up to `num_ranks`."""

    @jax.jit
    def sums(batch: Batch) -> tuple[Array, Array, Array]:
        probabilities = jax.nn.softmax(logits_of(teacher(batch)))
        targets, where = next_token_targets(batch.tokens, batch.segments)
        best, tokens = jax.lax.top_k(probabilities, num_ranks)
        hits = (tokens == targets[..., None]) & where[..., None]
        kept = jnp.where(where[..., None], best, 0.0)
        return kept.sum((0, 1)), hits.sum((0, 1)), where.sum()

    probability, hits, count = (np.asarray(total, np.float64) for total in sums(batch))
    return Choices(probability / count, hits / count)
