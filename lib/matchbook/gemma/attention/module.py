"""The attention sub-layer: projections, rotary embedding, `attention`, output projection."""

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from matchbook.gemma.attention.choice import attention
from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.layers import Rotation, apply_rope, fan_in_normal, project


class Attention(nnx.Module):
    """Projections, rotary embedding and `attention`; no biases, no norms on queries or keys.

    `implementation` names one of `choice.IMPLEMENTATIONS`; None leaves the choice to `attention`.
    """

    def __init__(
        self,
        config: Gemma2Config,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        stack: tuple[int, ...] = (),
        implementation: str | None = None,
    ):
        def weights(*shape: int, fan_in: int) -> nnx.Param:
            return nnx.Param(fan_in_normal(rngs.params(), (*stack, *shape), fan_in, param_dtype))

        embed, head_dim = config.embed_dim, config.head_dim
        self.config = config
        self.dtype = dtype
        self.implementation = implementation
        self.query = weights(embed, config.num_heads, head_dim, fan_in=embed)
        self.key = weights(embed, config.num_kv_heads, head_dim, fan_in=embed)
        self.value = weights(embed, config.num_kv_heads, head_dim, fan_in=embed)
        self.output = weights(config.num_heads, head_dim, embed, fan_in=config.num_heads * head_dim)

    def __call__(
        self,
        x: Float[Array, "batch time embed"],
        *,
        rotation: Rotation,
        positions: Int[Array, "batch time"],
        segments: Int[Array, "batch time"],
        window: int | None,
    ) -> Float[Array, "batch time embed"]:
        """Self-attention of `x`; `rotation` is `rope_rotation(positions, ...)`."""

        def heads(weights: nnx.Param) -> Array:
            return project(x, weights[...], self.dtype).reshape(*x.shape[:2], *weights.shape[1:])

        mixed = attention(
            apply_rope(heads(self.query), rotation),
            apply_rope(heads(self.key), rotation),
            heads(self.value),
            positions=positions,
            segments=segments,
            window=window,
            softcap=self.config.attention_softcap,
            scale=self.config.query_scale,
            implementation=self.implementation,
        )
        flat = mixed.reshape(*x.shape[:2], -1)
        return project(flat, self.output[...].reshape(flat.shape[-1], -1), self.dtype)
