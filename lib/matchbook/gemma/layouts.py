"""The two checkpoint layouts of Gemma 2 as tables of names and shapes (reference sheet, section 8).

Unusual: nothing is loaded here. A layout lists every tensor that a file of it holds, so that the
lists can be counted and added up against Table 2; `checkpoints` holds them against real files.
"""

from matchbook.gemma.config import Gemma2Config
from matchbook.gemma.mapping import Shape, flax_tensors, hugging_face_tensors

HUGGING_FACE_ROWS = 256_000  # one for each token
PADDED_ROWS = 256_128  # Google's own table: 2001 * 128


def hugging_face_shapes(config: Gemma2Config) -> dict[str, Shape]:
    """Tensor name -> shape in a Hugging Face checkpoint, matrices stored [output, input].

    The file has no `lm_head.weight`: the output projection is the embedding table.
    """
    return {place.name: place.shape for place in hugging_face_tensors(config)}


def flax_shapes(config: Gemma2Config, *, transposed_gate: bool) -> dict[str, Shape]:
    """Leaf name -> shape in Google's Flax checkpoint; `transposed_gate` as in `flax_tensors`."""
    places = flax_tensors(config, transposed_gate=transposed_gate)
    return {place.name: place.shape for place in places}
