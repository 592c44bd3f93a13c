"""The two checkpoint layouts of Gemma 2 as tables of names and shapes (reference sheet, section 8).

Unusual: nothing is loaded here. A layout lists every tensor that a file of it holds, so that the
lists can be counted, added up against Table 2, and later be held against what a file contains.
"""

from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.mapping import hugging_face_tensors

HUGGING_FACE_ROWS = 256_000  # one for each token; Google's table is padded to 2001 * 128
Shape = tuple[int, ...]


def hugging_face_shapes(config: Gemma2Config) -> dict[str, Shape]:
    """Tensor name -> shape in a Hugging Face checkpoint, matrices stored [output, input].

    The file has no `lm_head.weight`: the output projection is the embedding table.
    """
    return {place.name: place.shape for place in hugging_face_tensors(config)}


def flax_shapes(config: Gemma2Config, *, transposed_gate: bool) -> dict[str, Shape]:
    """Leaf name -> shape in Google's Flax checkpoint.

    Keys and values share a leaf, gate and up projection too, so a layer has nine.

    Args:
      config: sizes; real files have 256,128 rows in the table.
      transposed_gate: whether the gating leaf is stored [2, mlp, embed], as in the files of 9B and
        27B, or [2, embed, mlp], as in that of the 2B.
    """
    heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
    embed, mlp = config.embed_dim, config.mlp_dim
    layer = {
        "attn/q_einsum/w": (heads, embed, head_dim),
        "attn/kv_einsum/w": (2, kv_heads, embed, head_dim),
        "attn/attn_vec_einsum/w": (heads, head_dim, embed),
        "mlp/gating_einsum/w": (2, mlp, embed) if transposed_gate else (2, embed, mlp),
        "mlp/linear/w": (mlp, embed),
        "pre_attention_norm/scale": (embed,),
        "post_attention_norm/scale": (embed,),
        "pre_ffw_norm/scale": (embed,),
        "post_ffw_norm/scale": (embed,),
    }
    shapes: dict[str, Shape] = {"transformer/embedder/input_embedding": (config.vocab_size, embed)}
    for index in range(config.num_layers):
        for name, shape in layer.items():
            shapes[f"transformer/layer_{index}/{name}"] = shape
    shapes["transformer/final_norm/scale"] = (embed,)
    return shapes
