"""The shape of a Gemma 2 model (Table 1), and its translation from and to a Hugging Face config.

Unusual: `mlp_dim` is the width of the gated MLP, half of the paper's "feedforward dim", which
counts gate and up projection together; and the query scale is a number of its own, since the 27B
does not use its head size for it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from matchbook.gemma import hf_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemma2Config:
    """Sizes and constants of one Gemma 2 model; the defaults are what all three real sizes share.

    Layer 0 is local, layer 1 global, and so on to the last, which is global: layers are stacked and
    scanned in such pairs, so their number is even.

    Attributes:
      vocab_size: rows of the embedding table. Google's own table is padded to 256,128 rows (the
        paper's number), the tokenizer and the Hugging Face files have 256,000.
      embed_dim: width of the residual stream, the paper's d_model.
      num_layers: transformer layers, even.
      num_heads: query heads.
      num_kv_heads: key and value heads; query head n reads from n // (num_heads / num_kv_heads).
      head_dim: size of a head, even; num_heads * head_dim need not be embed_dim.
      mlp_dim: width of the gated MLP: half of Table 1's "feedforward dim".
      sliding_window: positions a local layer sees, the token itself included.
      attention_softcap: cap on attention scores, or None for no cap.
      final_softcap: cap on logits, or None for no cap.
      query_pre_attn_scalar: queries are scaled by its inverse root. None stands for head_dim and
        is replaced by it at once: `dataclasses.replace` a head size together with this.
      rope_base: base of the rotary timescales.
      norm_eps: added to the mean square in RMSNorm.
      max_context: longest sequence the model is meant for, in tokens.
      pre_norm: whether sub-layers norm their input; Table 1 says yes.
      post_norm: whether they norm their output; Table 1 says yes. A model without one of the two
        is an ablation and *not Gemma 2*: no checkpoint has a place for it.

    Raises:
      ValueError: a size that is not a positive integer, or sizes that do not fit each other.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    sliding_window: int = 4096
    attention_softcap: int | float | None = 50.0
    final_softcap: int | float | None = 30.0
    query_pre_attn_scalar: int | float | None = None
    rope_base: int | float = 10_000.0
    norm_eps: int | float = 1e-6
    max_context: int = 8192
    pre_norm: bool = True
    post_norm: bool = True

    def __post_init__(self) -> None:
        if self.query_pre_attn_scalar is None:
            object.__setattr__(self, "query_pre_attn_scalar", self.head_dim)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is bool:
                if type(value) is not bool:
                    raise ValueError(f"{field.name}: expected True or False, got {value!r}")
                continue
            if field.type is int and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name}: expected a positive integer, got {value!r}")
            may_be_none = field.name in ("attention_softcap", "final_softcap")
            if not _is_positive(value) and not (may_be_none and value is None):
                raise ValueError(f"{field.name}: expected a positive number, got {value!r}")
        if self.num_layers % 2:
            raise ValueError(
                f"num_layers: expected an even number, got {self.num_layers}: "
                "layers come in (local, global) pairs and the last one is global"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads: expected a divisor of num_heads = {self.num_heads}, "
                f"got {self.num_kv_heads}: every key/value head serves as many query heads"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim: expected an even number, got {self.head_dim}: "
                "the rotary embedding turns the two halves of a head against each other"
            )

    def refuse_ablations(self) -> None:
        """Silent for a Gemma 2: called wherever a file is to hold the model.

        Raises:
          ValueError: sub-layers without pre-norm or post-norm.
        """
        for name in ("pre_norm", "post_norm"):
            if not getattr(self, name):
                raise ValueError(
                    f"{name}: expected True, got False: a model with norms left out is an ablation "
                    "and no Gemma 2, which no checkpoint and no config.json can hold"
                )

    @property
    def num_pairs(self) -> int:
        """Pairs of a local and a global layer, the unit of the scan."""
        return self.num_layers // 2

    @property
    def queries_per_kv_head(self) -> int:
        """Query heads that share a key/value head: 2 in all real sizes, the paper's num_groups."""
        return self.num_heads // self.num_kv_heads

    @property
    def query_scale(self) -> float:
        """What queries are multiplied by: 1/16 for 2B and 9B, 1/12 for 27B."""
        assert self.query_pre_attn_scalar is not None
        return self.query_pre_attn_scalar**-0.5

    @property
    def layer_types(self) -> tuple[str, ...]:
        """`"local"` or `"global"` for each layer, first to last."""
        return ("local", "global") * self.num_pairs

    @classmethod
    def gemma2_2b(cls) -> "Gemma2Config":
        """Table 1, 2B: 2,614,636,800 parameters."""
        return cls(
            vocab_size=256_128,
            embed_dim=2304,
            num_layers=26,
            num_heads=8,
            num_kv_heads=4,
            head_dim=256,
            mlp_dim=9216,
        )

    @classmethod
    def gemma2_9b(cls) -> "Gemma2Config":
        """Table 1, 9B: 9,242,164,736 parameters."""
        return cls(
            vocab_size=256_128,
            embed_dim=3584,
            num_layers=42,
            num_heads=16,
            num_kv_heads=8,
            head_dim=256,
            mlp_dim=14_336,
        )

    @classmethod
    def gemma2_27b(cls) -> "Gemma2Config":
        """Table 1, 27B: 27,227,718,144 parameters; queries scaled by (d_model / heads)^-0.5."""
        return cls(
            vocab_size=256_128,
            embed_dim=4608,
            num_layers=46,
            num_heads=32,
            num_kv_heads=16,
            head_dim=128,
            mlp_dim=36_864,
            query_pre_attn_scalar=4608 // 32,
        )

    @classmethod
    def from_hf(cls, mapping: Mapping[str, Any]) -> "Gemma2Config":
        """The config that a Hugging Face `config.json`, parsed, describes.

        Raises:
          ValueError: a key that is missing, contradicts another, or asks for something that is not
            Gemma 2; the message names key, expected and found.
        """
        return cls(**hf_config.read(mapping))

    def to_hf(self) -> dict[str, Any]:
        """The content of a `config.json` that transformers reads back as this very model.

        Raises:
          ValueError: an ablation, see `refuse_ablations`.
        """
        self.refuse_ablations()
        return hf_config.write(dataclasses.asdict(self))


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < float("inf")
