"""The Gemma 2 transformer (section 2): embedding, layers in (local, global) pairs, tied logits.

Unusual: the weights of all pairs are stacked along a leading axis and the pairs are scanned, so a
46-layer model compiles like a 2-layer one; each sub-layer is normed on its way in *and* out.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from matchbook.gemma.attention import Attention
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.dimensions import gathered
from matchbook.gemma.layers import Embedder, GatedMLP, NoNorm, RMSNorm, Rotation, rope_rotation

# What the backward pass finds kept of a scanned pair; it computes the rest again.
REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,  # plain autodiff: no checkpoint at all
    # Products with weights only; attention, whose products have batch dimensions, is not kept.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    # The stream before the pair; then before each layer, so that one layer at a time is redone.
    "pair": jax.checkpoint_policies.nothing_saveable,
    "layer": jax.checkpoint_policies.nothing_saveable,
}


def rematerialised[**Given, Found](
    function: Callable[Given, Found], remat: str, unit: str
) -> Callable[Given, Found]:
    """The function of a "layer" or a "pair", with the backward pass that `remat` has for such.

    Forward and backward scan share no subexpressions that would need a barrier; it is here to keep
    the layers' recomputations apart. Without it XLA does both first and holds both: 8.4 rather than
    5.0 MB in a toy of 4 layers, as much as "pair".
    """
    each_layer = remat == "layer"
    if remat == "none" or each_layer != (unit == "layer"):
        return function
    return jax.checkpoint(function, policy=REMAT[remat], prevent_cse=each_layer)


class Layer(nnx.Module):
    """x + post_norm(sublayer(pre_norm(x))), for attention and then for the MLP."""

    def __init__(
        self,
        config: Gemma2Config,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        attention: str | None = None,
        stack: tuple[int, ...] = (),
    ):
        def norm(*, present: bool) -> RMSNorm | NoNorm:
            if not present:
                return NoNorm()
            return RMSNorm(
                config.embed_dim, eps=config.norm_eps, param_dtype=param_dtype, stack=stack
            )

        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype, "stack": stack}
        self.pre_attention_norm = norm(present=config.pre_norm)
        self.attention = Attention(config, **options, implementation=attention)
        self.post_attention_norm = norm(present=config.post_norm)
        self.pre_mlp_norm = norm(present=config.pre_norm)
        self.mlp = GatedMLP(config, **options)
        self.post_mlp_norm = norm(present=config.post_norm)

    def __call__(
        self,
        x: Float[Array, "batch time embed"],
        *,
        rotation: Rotation,
        positions: Int[Array, "batch time"],
        segments: Int[Array, "batch time"],
        window: int | None,
    ) -> Float[Array, "batch time embed"]:
        """One layer: local with a `window`, global where it is None."""
        attended = self.attention(
            self.pre_attention_norm(x),
            rotation=rotation,
            positions=positions,
            segments=segments,
            window=window,
        )
        x = x + self.post_attention_norm(attended)
        return x + self.post_mlp_norm(self.mlp(self.pre_mlp_norm(x)))


class LayerPair(nnx.Module):
    """A local layer, then a global one: what the scan repeats."""

    def __init__(
        self,
        config: Gemma2Config,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        remat: str = "none",
        attention: str | None = None,
        stack: tuple[int, ...] = (),
    ):
        self.window = config.sliding_window
        self.dtype = dtype
        self.remat = remat
        options: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        options |= {"attention": attention, "stack": stack}
        self.local_layer = Layer(config, **options)
        self.global_layer = Layer(config, **options)

    def __call__(
        self,
        x: Float[Array, "batch time embed"],
        *,
        rotation: Rotation,
        positions: Int[Array, "batch time"],
        segments: Int[Array, "batch time"],
    ) -> Float[Array, "batch time embed"]:
        """Two layers of the stream `x`."""
        where: dict[str, Any] = {
            "rotation": rotation,
            "positions": positions,
            "segments": segments,
        }

        def local_layer(x: Array) -> Array:
            return gathered(self.local_layer, self.dtype)(x, window=self.window, **where)

        def global_layer(x: Array) -> Array:
            return gathered(self.global_layer, self.dtype)(x, window=None, **where)

        first, then = (
            rematerialised(layer, self.remat, "layer") for layer in (local_layer, global_layer)
        )
        return rematerialised(lambda x: then(first(x)), self.remat, "pair")(x)


class Transformer(nnx.Module):
    """Gemma 2 as a Flax NNX module.

    Inside `jit`, `grad`, `scan` and `vmap` use it as a pure function of its weights:
    `graph, weights = nnx.split(model)` outside, `nnx.merge(graph, weights)(tokens)` inside.

    Args:
      config: sizes and constants.
      rngs: source of the initial weights, for example `nnx.Rngs(0)`.
      dtype: of activations and products; norms, softmax and logits are float32 whatever it is.
      param_dtype: of the stored weights; float32 to train, whatever the activations are.
      remat: what the backward pass computes again rather than keeps, one of `REMAT`. Least memory
        and most work last: "none", "dots" (attention, norms and gates again), "pair", "layer" (all
        layers again; "pair" keeps fewer streams, "layer" redoes less at a time).
      attention: which implementation of `attention`; None for the one chosen for the device.
      unroll: pairs that one turn of the scan holds. With all of them there is no loop, nothing is
        copied into stacks for the backward pass, and compile time grows with depth.

    Raises:
      ValueError: an unknown `remat`, or an `unroll` below 1.
    """

    def __init__(
        self,
        config: Gemma2Config,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        attention: str | None = None,
        unroll: int = 1,
    ):
        if remat not in REMAT:
            raise ValueError(f"remat: expected one of {list(REMAT)}, got {remat!r}")
        if unroll < 1:
            raise ValueError(f"unroll: expected at least 1 pair a turn, got {unroll}")
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.remat, self.unroll = remat, unroll
        self.embedder = Embedder(config, **options)
        self.pairs = LayerPair(
            config, **options, remat=remat, attention=attention, stack=(config.num_pairs,)
        )
        self.final_norm = RMSNorm(config.embed_dim, eps=config.norm_eps, param_dtype=param_dtype)

    def __call__(
        self,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
    ) -> Float[Array, "batch time vocab"]:
        """Soft-capped float32 logits of the token that follows each token; see `hidden`."""
        return self.unembed(self.hidden(tokens, positions, segments))

    def hidden(
        self,
        tokens: Int[Array, "batch time"],
        positions: Int[Array, "batch time"] | None = None,
        segments: Int[Array, "batch time"] | None = None,
    ) -> Float[Array, "batch time embed"]:
        """The stream after the final norm, in the activation dtype.

        Args:
          tokens: ids below `vocab_size`; any other id gives NaN rather than another token's row.
          positions: place of each token in its document. By default its place in the row, which
            gives the same logits, padded or packed: only differences of positions matter.
          segments: document of each token, 0 for padding; by default one document per row. Tokens
            see their own document only. What padding gives is finite and means nothing.

        Raises:
          ValueError: without `positions`, a row longer than the config's `max_context`; positions
            or segments of another shape than `tokens`.
        """
        for name, given in (("positions", positions), ("segments", segments)):
            if given is not None and given.shape != tokens.shape:
                raise ValueError(
                    f"{name}: expected the shape of tokens, {tokens.shape}, got {given.shape}"
                )
        time = tokens.shape[1]
        if positions is None:
            if time > self.config.max_context:
                raise ValueError(
                    f"tokens: expected at most max_context = {self.config.max_context} in a row, "
                    f"got {time}: cut the row, pass positions, or set max_context in the config"
                )
            positions = jnp.broadcast_to(jnp.arange(time, dtype=jnp.int32), tokens.shape)
        if segments is None:
            segments = jnp.ones(tokens.shape, jnp.int32)
        rotation = rope_rotation(positions, self.config.head_dim, self.config.rope_base)
        graph, stacked = nnx.split(self.pairs)

        def step(x: Array, weights: Any) -> tuple[Array, None]:
            pair = nnx.merge(graph, weights)
            where = {"rotation": rotation, "positions": positions, "segments": segments}
            return pair(x, **where), None

        x = gathered(self.embedder).encode(tokens)
        x, _ = jax.lax.scan(step, x, stacked, unroll=self.unroll)
        return self.final_norm(x)

    def unembed(self, hidden: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
        """Soft-capped float32 logits from what `hidden` returns; also for selected rows of it."""
        return gathered(self.embedder).decode(hidden)
