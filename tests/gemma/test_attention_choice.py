"""Which implementation computes attention, and that the name given is the one taken."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from matchbook.gemma import Gemma2Config
from matchbook.gemma.attention import Attention, attention, choice, chosen, describe, tokamax
from matchbook.gemma.layers import rope_rotation

CONFIG = Gemma2Config(
    vocab_size=32,
    embed_dim=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_dim=32,
    sliding_window=5,
)


def machine(monkeypatch, *, backend="cpu", devices=1, hopper=False, installed=False):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(tokamax, "on_supported_gpu", lambda: hopper)
    monkeypatch.setattr(tokamax, "installed", lambda: installed)


@pytest.mark.parametrize(
    ("devices", "dtype", "expected"),
    [
        ({}, jnp.float32, "blockwise"),
        ({"backend": "tpu"}, jnp.float32, "splash"),
        ({"backend": "tpu", "devices": 8}, jnp.bfloat16, "blockwise"),
        ({"backend": "gpu", "hopper": True, "installed": True}, jnp.bfloat16, "tokamax"),
        ({"backend": "gpu", "hopper": True, "installed": True}, jnp.float32, "blockwise"),
        ({"backend": "gpu", "hopper": True}, jnp.bfloat16, "blockwise"),
        ({"backend": "gpu", "installed": True}, jnp.bfloat16, "blockwise"),
    ],
)
def test_chosen_for_long_rows(monkeypatch, devices, dtype, expected):
    machine(monkeypatch, **devices)
    assert chosen(choice.LONG, jnp.dtype(dtype)) == expected
    assert chosen(choice.LONG - 1, dtype) == "dense"
    assert expected in describe()


def test_describe_names_both_dtypes_where_they_differ(monkeypatch):
    machine(monkeypatch)
    assert describe() == f"dense below {choice.LONG} tokens, blockwise from there"
    machine(monkeypatch, backend="gpu", hopper=True, installed=True)
    assert describe().endswith("blockwise (float32) or tokamax (bfloat16) from there")


def test_the_name_given_is_the_one_taken(monkeypatch):
    q = jnp.ones((1, 3, 2, 4))
    row = jnp.arange(3)[None]
    options = {"positions": row, "segments": row + 1, "window": 2, "softcap": 5.0, "scale": 0.5}
    taken = []
    for name in choice.IMPLEMENTATIONS:
        monkeypatch.setitem(
            choice.IMPLEMENTATIONS, name, lambda *_, n=name, **given: taken.append((n, given)) or q
        )
        attention(q, q, q, **options, implementation=name)
    attention(q, q, q, **options)
    assert [name for name, _ in taken] == ["dense", "blockwise", "tokamax", "splash", "dense"]
    assert all(given.keys() == options.keys() for _, given in taken)
    with pytest.raises(ValueError, match=r"one of dense, blockwise, tokamax, splash.*got 'flash'"):
        attention(q, q, q, **options, implementation="flash")


def test_the_module_passes_its_implementation(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, 9, 16))
    positions = jnp.broadcast_to(jnp.arange(9), (2, 9))
    where = {
        "rotation": rope_rotation(positions, CONFIG.head_dim, CONFIG.rope_base),
        "positions": positions,
        "segments": jnp.ones_like(positions),
        "window": 5,
    }

    options = {"rngs": nnx.Rngs(0), "dtype": jnp.float32, "param_dtype": jnp.float32}
    module = Attention(CONFIG, **options)
    assert (module(x, **where) != 0).any()
    monkeypatch.setitem(choice.IMPLEMENTATIONS, "splash", lambda q, *_, **__: jnp.zeros_like(q))
    module = Attention(CONFIG, **options, implementation="splash")
    assert (module(x, **where) == 0).all()
