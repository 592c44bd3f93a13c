"""The pip package `gemma` at the work of `bench/gemma.py` and `bench/decode.py`.

Run by the Python that has the package. Reads the model's sizes as JSON on standard input, writes
tokens per second of each work as JSON on standard output. Its sampler wants a tokenizer and text,
so greedy decoding here is its sampler's loop without them: one compiled loop around the model.
"""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import optax
from gemma.gm.nn import _config, _modules, _transformer

from gemma import gm


def model_of(sizes: dict) -> _transformer.Transformer:
    pair = (_modules.AttentionType.LOCAL_SLIDING, _modules.AttentionType.GLOBAL)
    norm = _config.QueryPreAttentionNormalisation.BY_ONE_OVER_SQRT_HEAD_DIM

    class Model(gm.nn.Gemma2_2B):
        config: _config.TransformerConfig = _config.TransformerConfig(
            num_embed=sizes["vocab_size"],
            embed_dim=sizes["embed_dim"],
            hidden_dim=sizes["mlp_dim"],
            num_heads=sizes["num_heads"],
            head_dim=sizes["head_dim"],
            num_kv_heads=sizes["num_kv_heads"],
            final_logit_softcap=30.0,
            attn_logits_soft_cap=50.0,
            sliding_window_size=sizes["sliding_window"],
            attention_types=pair * (sizes["num_layers"] // 2),
            use_post_attn_norm=True,
            use_post_ffw_norm=True,
            query_pre_attn_norm=norm,
        )

    return Model(dtype=jnp.float32)


def seconds(work, repeats: int) -> float:
    jax.block_until_ready(work())
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(work())
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    asked = json.load(sys.stdin)
    batch, width = asked["batch"], asked["time"]
    model = model_of(asked["model"])
    tokens = jax.random.randint(jax.random.key(0), (batch, width), 0, asked["model"]["vocab_size"])
    params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
    forward = jax.jit(lambda params: model.apply({"params": params}, tokens).logits)
    rates = {"prefill": batch * width / seconds(lambda: forward(params), 5)}

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))

    def loss(params):
        logits = model.apply({"params": params}, tokens).logits[:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    rates["training step"] = batch * width / seconds(lambda: step(params, state), 3)

    for rows in asked["decode"]:
        rates[f"decode {rows}"] = rows * asked["new"] / decode_seconds(model, params, rows, asked)
    json.dump({"peer": "gemma " + version(), "rates": rates}, sys.stdout)


def decode_seconds(model, params, rows: int, asked: dict) -> float:
    prompt, new = asked["prompt"], asked["new"]
    length = prompt + new
    tokens = jnp.full((rows, prompt), 3)
    slots = jnp.arange(length)

    def apply(params, tokens, positions, cache):
        seen = slots <= positions[..., None]
        return model.apply(
            {"params": params},
            tokens=tokens,
            positions=positions,
            cache=cache,
            attention_mask=seen,
            return_last_only=True,
        )

    @jax.jit
    def generate(params):
        cache = model.init_cache(batch_size=rows, dtype=jnp.float32, cache_length=length)
        places = jnp.broadcast_to(jnp.arange(prompt), (rows, prompt))
        out = apply(params, tokens, places, cache)

        def one(index, carry):
            logits, cache, written = carry
            token = jnp.argmax(logits.reshape(rows, -1), axis=-1)
            written = written.at[:, index].set(token)
            place = jnp.full((rows, 1), prompt + index)
            out = apply(params, token[:, None], place, cache)
            return out.logits.reshape(rows, -1), out.cache, written

        start = out.logits.reshape(rows, -1), out.cache, jnp.zeros((rows, new), jnp.int32)
        return jax.lax.fori_loop(0, new, one, start)[2]

    return seconds(lambda: generate(params), 5)


def version() -> str:
    from importlib.metadata import version as of

    return of("gemma")


if __name__ == "__main__":
    main()
