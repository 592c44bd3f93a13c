"""Small models, and what a teacher's targets look like: against a loop over positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook import distill
from matchbook.corpus import Rows

CONFIG = distill.small_gemma(20, 64, 2, window=4)


def test_shapes_keep_the_proportions_of_the_2b():
    for width, heads, head_dim in ((64, 2, 32), (192, 6, 32), (256, 4, 64), (768, 12, 64)):
        config = distill.small_gemma(512, width, 4, window=8)
        assert (config.num_heads, config.num_kv_heads) == (heads, heads // 2)
        assert (config.head_dim, config.mlp_dim, config.sliding_window) == (head_dim, 4 * width, 8)
    for width, multiple in ((96, 64), (320, 128)):
        with pytest.raises(ValueError, match=f"a multiple of {multiple}, got {width}"):
            distill.small_gemma(512, width, 2, window=8)


def test_models_differ_by_seed_alone():
    graph, first = distill.new_model(CONFIG, seed=3)
    again_graph, again = distill.new_model(CONFIG, seed=3)
    _, other = distill.new_model(CONFIG, seed=4)
    assert graph == again_graph == distill.static_part(CONFIG)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    table = first["embedder"]["table"]
    assert not np.allclose(table, other["embedder"]["table"])
    weights = sum(leaf.size for leaf in jax.tree.leaves(first))
    norms = 2 * 4 * 64 + 64
    assert weights == 15 * 2 * 64**2 + 20 * 64 + norms


def test_choices_by_a_loop():
    random = np.random.default_rng(0)
    tokens = random.integers(1, 7, (3, 8)).astype(np.int32)
    segments = np.array([[1] * 8, [1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 1, 0, 0, 0, 0]], np.int32)
    logits = random.normal(0, 2, (3, 8, 7)).astype(np.float32)
    given, hits = np.zeros(4), np.zeros(4)
    count = 0
    for row in range(3):
        for place in range(7):
            if segments[row, place] != segments[row, place + 1] or not segments[row, place]:
                continue
            count += 1
            p = np.exp(logits[row, place]) / np.exp(logits[row, place]).sum()
            order = np.argsort(-p)[:4]
            given += p[order]
            hits += order == tokens[row, place + 1]
    rows = Rows(*(jnp.asarray(values) for values in (tokens, np.zeros_like(tokens), segments)))
    found = distill.rank_choices(lambda batch: jnp.asarray(logits), rows, 4)
    np.testing.assert_allclose(found.probability, given / count, rtol=1e-6)
    np.testing.assert_allclose(found.frequency, hits / count, rtol=1e-12)
