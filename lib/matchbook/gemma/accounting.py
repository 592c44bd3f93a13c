"""What a Gemma 2 model costs: parameters (Table 2), FLOPs per token, bytes of key/value cache.

Unusual: every number is arithmetic on a `Gemma2Config`, nothing is built or run; Table 2 comes out
to the digit only if all four norms of a layer and the final norm are counted.
"""

import dataclasses

from matchbook.gemma.config import Gemma2Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameter counts: `embedding` and `final_norm` once, every other field per layer."""

    num_layers: int
    embedding: int
    query: int
    key: int
    value: int
    output: int
    mlp: int
    norms: int
    final_norm: int

    @property
    def attention(self) -> int:
        """Query, key, value and output projection of one layer."""
        return self.query + self.key + self.value + self.output

    @property
    def per_layer(self) -> int:
        """Everything in one layer."""
        return self.attention + self.mlp + self.norms

    @property
    def non_embedding(self) -> int:
        """Table 2's second column: all layers and the final norm."""
        return self.num_layers * self.per_layer + self.final_norm

    @property
    def total(self) -> int:
        """The whole model; the table counts once, since it is tied."""
        return self.embedding + self.non_embedding


def parameter_count(config: Gemma2Config) -> Parameters:
    """Table 2, by part. No biases, no norms on queries and keys, four norms per layer.

    An ablation that leaves norms out has fewer.
    """
    query = config.embed_dim * config.num_heads * config.head_dim
    key = config.embed_dim * config.num_kv_heads * config.head_dim
    return Parameters(
        num_layers=config.num_layers,
        embedding=config.vocab_size * config.embed_dim,
        query=query,
        key=key,
        value=key,
        output=query,
        mlp=3 * config.embed_dim * config.mlp_dim,
        norms=2 * (config.pre_norm + config.post_norm) * config.embed_dim,
        final_norm=config.embed_dim,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops:
    """FLOPs for one token, summed over all layers; a multiply and an add are two.

    Matrix products only: norms, soft-caps, softmax and rotary embedding are a few per cent at real
    sizes. Looking a token up in the table costs nothing.
    """

    query: int | float
    key: int | float
    value: int | float
    output: int | float
    local_attention: int | float
    global_attention: int | float
    mlp: int | float
    unembedding: int | float

    @property
    def total(self) -> int | float:
        """All parts together."""
        return sum(self.by_part().values())

    def by_part(self) -> dict[str, int | float]:
        """Field name -> FLOPs, in the order of the fields."""
        return dataclasses.asdict(self)

    def times(self, factor: int | float) -> "Flops":
        """Every part times `factor`."""
        return Flops(**{part: factor * flops for part, flops in self.by_part().items()})


def forward_flops(
    config: Gemma2Config, *, local_keys: int | float, global_keys: int | float
) -> Flops:
    """FLOPs of one token that attends to so many keys in each local and each global layer.

    With both equal to the row length this is what the dense `attention` computes, which masks keys
    but does not skip them.
    """
    parameters = parameter_count(config)
    layers, pairs = config.num_layers, config.num_pairs
    per_key = 4 * config.num_heads * config.head_dim  # 2 for q k^T, 2 for the mean of v
    return Flops(
        query=2 * layers * parameters.query,
        key=2 * layers * parameters.key,
        value=2 * layers * parameters.value,
        output=2 * layers * parameters.output,
        local_attention=pairs * per_key * local_keys,
        global_attention=pairs * per_key * global_keys,
        mlp=2 * layers * parameters.mlp,
        unembedding=2 * parameters.embedding,
    )


def flops_per_token(config: Gemma2Config, context: int, *, training: bool = False) -> Flops:
    """FLOPs of the last token of `context`, keys outside the window skipped: one step of decoding.

    Training takes three times the forward pass: in the backward pass every product becomes two.
    """
    forward = forward_flops(
        config, local_keys=min(context, config.sliding_window), global_keys=context
    )
    return forward.times(3) if training else forward


def mean_flops_per_token(config: Gemma2Config, length: int, *, training: bool = False) -> Flops:
    """FLOPs per token, averaged over a document of `length` tokens; see `flops_per_token`."""
    forward = forward_flops(
        config,
        local_keys=mean_visible_keys(length, config.sliding_window),
        global_keys=mean_visible_keys(length, None),
    )
    return forward.times(3) if training else forward


def mean_visible_keys(length: int, window: int | None) -> float:
    """Mean number of keys that the tokens of a document see: min(p + 1, window) at position p."""
    ramp = length if window is None else min(window, length)
    return (ramp * (ramp + 1) / 2 + (length - ramp) * ramp) / length


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheBytes:
    """Bytes of the key/value cache of one sequence, over all local and all global layers."""

    local_layers: int
    global_layers: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.local_layers + self.global_layers


def cache_bytes_per_token(config: Gemma2Config, *, bytes_per_value: int = 2) -> int:
    """Bytes that keys and values of one token take over all layers; bfloat16 by default."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * bytes_per_value


def cache_bytes(
    config: Gemma2Config, context: int, *, bytes_per_value: int = 2, ring: bool = True
) -> CacheBytes:
    """Bytes of the cache after `context` tokens.

    With a `ring`, local layers keep the last `sliding_window` tokens only; without, all of them.
    """
    per_token = cache_bytes_per_token(config, bytes_per_value=bytes_per_value) // 2
    kept = min(context, config.sliding_window) if ring else context
    return CacheBytes(local_layers=per_token * kept, global_layers=per_token * context)


def checkpoint_tensors(config: Gemma2Config) -> dict[str, int]:
    """Number of tensors in a checkpoint, by layout.

    Hugging Face: 7 matrices and 4 norms per layer; Flax: keys with values and gate with up are one
    tensor each, so 9. Two more for the table and the final norm.
    """
    return {"hugging_face": 11 * config.num_layers + 2, "flax": 9 * config.num_layers + 2}
