"""Prompts with answers: real summaries on every machine, or data of one's own; three splits.

    data = corpus.pairs("environment", max_pairs=20_000)            # function -> docstring
    data = corpus.pairs("xsum.parquet", prompt="document", answer="summary")

Unusual: a pair knows where it comes from, so that whatever is wrong with it can be told with its
row; nothing is cut or dropped in silence.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matchbook.corpus import docstrings, pair_files
from matchbook.corpus import documents as choose
from matchbook.corpus.files import find
from matchbook.corpus.load import ENVIRONMENT
from matchbook.corpus.pair import Pair
from matchbook.corpus.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")
Ids = list[int]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs in three splits that share no group: no package, or no prompt.

    Attributes:
      train: pairs to learn from.
      validation: pairs to watch the learning with.
      test: pairs to judge by in the end.
      digest: 64 hex digits of all of them and their order, for the passport.
      skipped: why functions were left out -> how many; empty for data of one's own.
    """

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]
    digest: str
    skipped: Mapping[str, int]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(getattr(self, name)):,}" for name in SPLITS)
        left_out = choose.tell(Counter(self.skipped))
        return f"Pairs {self.digest[:12]}: {sizes}; skipped: {left_out}"


def pairs(
    source: str | Path = ENVIRONMENT,
    *,
    prompt: str = "prompt",
    answer: str = "answer",
    max_pairs: int | None = None,
    cache: Path | None = None,
) -> Pairs:
    """Reads, de-duplicates, limits and splits the pairs of a source.

    Args:
      source: `"environment"` for the functions of the standard library and the installed packages
        with the first line of their docstring, split by package; else the path of a `.jsonl` or
        `.parquet` file, or of a folder that `datasets` saved, split by prompt (by the folder's own
        train, validation and test where it has all three).
      prompt: the column of prompts, for data of one's own.
      answer: the column of answers, for data of one's own.
      max_pairs: limit on all splits together, met by a sample that is always the same.
      cache: folder to keep the environment's pairs in: reading all of them takes a minute.

    Raises:
      FileNotFoundError: no such path; names the nearest.
      ValueError: a missing column, an empty prompt or answer (naming its row), too few pairs for
        three splits, a limit below 1.
    """
    if max_pairs is not None and max_pairs < 1:
        raise ValueError(f"max_pairs: expected at least 1 or None, got {max_pairs}")
    skipped: Counter[str] = Counter()
    if source == ENVIRONMENT:
        kept = docstrings.pairs(max_pairs, skipped, cache)
    else:
        found = pair_files.pairs(find(source), prompt, answer)
        kept = list(itertools.islice(once(found, skipped), max_pairs))
    parts = split(kept)
    if not all(parts.values()):
        sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
        raise ValueError(f"{source}: too few pairs for three splits ({sizes}): add more")
    return Pairs(**parts, digest=digest(kept), skipped=dict(skipped))


def pairs_identity(source: str | Path = ENVIRONMENT, **options: Any) -> str:
    """What stands for a source of pairs in the key of a record; see `identity`.

    `options` are those of `pairs`.
    """
    if source == ENVIRONMENT:
        return ENVIRONMENT
    return f"{Path(source).name} {pairs(source, **options).digest[:16]}"


def once(found: Iterable[Pair], skipped: Counter[str]) -> Iterable[Pair]:
    """The first pair with each prompt, in order of a hash, so that a limit takes a sample."""
    seen: set[bytes] = set()
    for content, pair in sorted((choose.sha256(pair.prompt), pair) for pair in found):
        if content in seen:
            skipped["duplicate prompt"] += 1
        else:
            seen.add(content)
            yield pair


def split(kept: Sequence[Pair]) -> dict[str, tuple[Pair, ...]]:
    """The pairs' own splits where all three are named; else about 5 % each by a hash of groups."""
    if {pair.split for pair in kept} >= set(SPLITS):
        return {name: tuple(pair for pair in kept if pair.split == name) for name in SPLITS}
    parts: dict[str, list[Pair]] = {name: [] for name in SPLITS}
    for pair in kept:
        parts[choose.split_of(choose.sha256(pair.group))].append(pair)
    return {name: tuple(part) for name, part in parts.items()}


def digest(kept: Iterable[Pair]) -> str:
    """64 hex digits that change with any text, place or order of the pairs."""
    return choose.sha256(b"".join(choose.sha256("\0".join(_texts(pair))) for pair in kept)).hex()


def _texts(pair: Pair) -> tuple[str, str, str]:
    """What makes a pair, wherever its file lies."""
    return pair.prompt, pair.answer, pair.split


def encode_pairs(
    chosen: Sequence[Pair],
    tokenizer: Tokenizer,
    *,
    max_prompt: int,
    max_answer: int,
    ask: str = "",
    crop: bool = False,
) -> list[tuple[Ids, Ids]]:
    """Ids of each prompt, bos first, and of its answer, eos last.

    Args:
      chosen: pairs of one split.
      tokenizer: such as `train_tokenizer` learns.
      max_prompt: tokens of a prompt at most, bos and `ask` counted.
      max_answer: tokens of an answer at most, eos counted.
      ask: text behind every prompt, such as a line that asks for a summary.
      crop: take the beginning of a prompt that is too long.

    Raises:
      ValueError: a prompt, unless cropped, or an answer that is longer; names its row. See
        `fitting`.
    """
    encoded = []
    asked = tokenizer.encode(ask)
    for pair, (prompt, answer) in zip(chosen, _ids(chosen, tokenizer), strict=True):
        ids = (prompt[: max_prompt - len(asked)] if crop else prompt) + asked, answer
        for what, part, most in zip(("prompt", "answer"), ids, (max_prompt, max_answer)):
            if len(part) > most:
                raise ValueError(
                    f"{pair.where}: expected {what} of at most {most} tokens, got {len(part)}: "
                    "shorten it, allow more tokens, `crop` prompts, or choose answers by `fitting`"
                )
        encoded.append(ids)
    return encoded


def fitting(chosen: Sequence[Pair], tokenizer: Tokenizer, *, max_answer: int) -> tuple[Pair, ...]:
    """The pairs whose answers `encode_pairs` takes."""
    answers = tokenizer.encode_all([pair.answer for pair in chosen])
    return tuple(p for p, a in zip(chosen, answers, strict=True) if len(a) < max_answer)  # and eos


def _ids(chosen: Sequence[Pair], tokenizer: Tokenizer) -> list[tuple[Ids, Ids]]:
    prompts = tokenizer.encode_all([pair.prompt for pair in chosen])
    answers = tokenizer.encode_all([pair.answer for pair in chosen])
    return [([tokenizer.bos, *p], [*a, tokenizer.eos]) for p, a in zip(prompts, answers)]
