"""Pairs all the way in one call: source, texts, tokenizer, rows of prompts with answers."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchbook.corpus.load import ENVIRONMENT
from matchbook.corpus.pair import Pair
from matchbook.corpus.pairs import SPLITS, encode_pairs, fitting, pairs
from matchbook.corpus.tokenizer import Tokenizer, train_tokenizer

if TYPE_CHECKING:
    from matchbook.bond.sequences import AnsweredPrompts

LEARN_FROM = 8000  # pairs for the tokenizer


@dataclasses.dataclass(frozen=True)
class PairDataset:
    """Prompts with answers as ids, in three splits.

    Attributes:
      train: rows to learn from.
      validation: rows to watch the learning with.
      test: rows to judge by in the end.
      examples: the texts of the rows, by the name of their split.
      tokenizer: learned from train pairs alone.
      digest: 64 hex digits of the texts, for the passport.
    """

    train: "AnsweredPrompts"
    validation: "AnsweredPrompts"
    test: "AnsweredPrompts"
    examples: dict[str, tuple[Pair, ...]]
    tokenizer: Tokenizer
    digest: str


def pair_dataset(
    source: str | Path = ENVIRONMENT,
    *,
    vocab_size: int,
    max_prompt: int,
    max_answer: int,
    ask: str = "",
    **options: Any,
) -> PairDataset:
    """Rows of `pairs`; see there for the source, its options, and what raises.

    Of the environment, long functions are cropped to their beginnings, and those with a long
    summary left out. What is too long in data of one's own is refused with its row: it is for their
    owner to say what becomes of it.

    Args:
      source: `"environment"` or a path.
      vocab_size: pieces of the tokenizer.
      max_prompt: tokens of a prompt at most, bos and `ask` counted.
      max_answer: tokens of an answer at most, eos counted.
      ask: text behind every prompt.
      options: `prompt`, `answer`, `max_pairs` and `cache` of `pairs`.

    Raises:
      ValueError: no pair of the environment is left in a split, since all answers are too long.
    """
    from matchbook.bond.sequences import answered_prompts  # jax, which texts alone need not

    found = pairs(source, **options)
    texts = [f"{pair.prompt}{ask}{pair.answer}" for pair in found.train[:LEARN_FROM]]
    tokenizer = train_tokenizer(texts, vocab_size)
    examples = {name: getattr(found, name) for name in SPLITS}
    if ours := source == ENVIRONMENT:
        examples = {k: fitting(v, tokenizer, max_answer=max_answer) for k, v in examples.items()}
    if not all(examples.values()):
        sizes = ", ".join(f"{name} {len(of)}" for name, of in examples.items())
        raise ValueError(
            f"too few pairs with answers of at most {max_answer} tokens ({sizes}): allow more "
            "pairs, longer answers, or more pieces"
        )
    limits: dict[str, Any] = {"max_prompt": max_prompt, "max_answer": max_answer}
    rows = {
        name: answered_prompts(
            encode_pairs(of, tokenizer, **limits, ask=ask, crop=ours), max_prompt, max_answer
        )
        for name, of in examples.items()
    }
    return PairDataset(**rows, examples=examples, tokenizer=tokenizer, digest=found.digest)
