"""What the anatomy notebook measures, against the report's own numbers and against brute force."""

import dataclasses

import numpy as np
import pytest

from matchbook.gemma import Gemma2Config, accounting, anatomy

TABLE_2 = {
    "2B": (Gemma2Config.gemma2_2b(), 590_118_912, 2_024_517_888, 2_614_341_888),
    "9B": (Gemma2Config.gemma2_9b(), 917_962_752, 8_324_201_984, 9_241_705_984),
    "27B": (Gemma2Config.gemma2_27b(), 1_180_237_824, 26_047_480_320, 27_227_128_320),
}
SMALL = Gemma2Config(
    vocab_size=50,
    embed_dim=12,
    num_layers=4,
    num_heads=6,
    num_kv_heads=3,
    head_dim=4,
    mlp_dim=20,
    sliding_window=3,
)


@pytest.mark.parametrize("name", TABLE_2)
def test_the_real_model_has_table_2_to_the_digit(name):
    config, embedding, non_embedding, narrow_total = TABLE_2[name]
    table = anatomy.table_2(config)
    assert (table["embedding"], table["non_embedding"]) == (embedding, non_embedding)
    assert table["total"] == table["arithmetic_total"] == embedding + non_embedding
    assert table["total_256000_rows"] == narrow_total == table["total"] - 128 * config.embed_dim


def test_counting_and_arithmetic_agree_part_by_part():
    assert anatomy.counted_parameters(SMALL) == accounting.parameter_count(SMALL)


def test_an_array_of_no_part_is_refused():
    with pytest.raises(ValueError, match=r"pairs\.adapter"):
        anatomy._part_of("pairs.adapter")


def test_table_1_is_read_off_the_arrays():
    table = anatomy.table_1(SMALL)
    assert [table[key] for key in ("d_model", "layers", "feedforward_dim")] == [12, 4, 40]
    assert [table[key] for key in ("heads", "kv_heads", "head_size", "vocab")] == [6, 3, 4, 50]


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_masks_against_a_loop(window):
    curves = anatomy.masks(window, 6)
    for kind, span in {"local": window, "global": 6}.items():
        rows = [[float(q - span < k <= q) for k in range(6)] for q in range(6)]
        np.testing.assert_array_equal(curves[kind][1].reshape(6, 6), rows)
        np.testing.assert_array_equal(curves[f"{kind}.keys"][1], np.sum(rows, axis=1))


def test_caps_bound_and_leave_the_mask_alone():
    assert anatomy.caps(SMALL) == {
        "score_limit": 50.0,
        "logit_limit": 30.0,
        "slope_at_zero": 1.0,
        "visible_weight": 1.0,
    }


def test_cache_curves():
    contexts = [1, 3, 10]
    curves = anatomy.cache_curves(SMALL, contexts)
    per_layer_and_token = 2 * 3 * 4 * 2  # keys and values, 3 heads of 4 numbers of 2 bytes
    ring = [per_layer_and_token * 2 * (min(c, 3) + c) for c in contexts]
    np.testing.assert_array_equal(curves["cache.ring"][1], ring)
    whole = [per_layer_and_token * 4 * c for c in contexts]
    np.testing.assert_array_equal(curves["cache.all_global"][1], whole)
    np.testing.assert_array_equal(curves["cache.no_groups"][1], 2 * np.array(whole))


def test_flops_curves_add_up():
    curves = anatomy.flops_curves(SMALL, [2, 7])
    whole = sum(values for _, values in curves.values())
    expected = [accounting.mean_flops_per_token(SMALL, length).total for length in (2, 7)]
    np.testing.assert_allclose(whole, expected, rtol=1e-12)


def test_cap_curves_follow_the_config():
    config = dataclasses.replace(SMALL, attention_softcap=2.0, final_softcap=1.0)
    curves = anatomy.cap_curves(config, points=5)
    x = np.array([-120.0, -60.0, 0.0, 60.0, 120.0])
    np.testing.assert_allclose(curves["cap.attention"][1], 2 * np.tanh(x / 2), rtol=1e-6)
    np.testing.assert_allclose(curves["cap.logits"][1], np.tanh(x), rtol=1e-6)
