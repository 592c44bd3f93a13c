"""Texts of tasks as tokens, as lm-evaluation-harness and transformers make them of Gemma's.

Unusual: a control token spelled out in a text is the token, which `Tokenizer` alone never does. The
harness passes conversations on as text (section 5 of the report, Table 4), and its other backends
read them so; like theirs, these texts are a benchmark's and nobody's who could gain by it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from matchbook.gemma.chat import format_chat
from matchbook.gemma.tokenizer import BOS, END_OF_TURN, EOS, PAD, TURNS, UNK, Tokenizer

CONTROLS = [PAD, EOS, BOS, UNK, *TURNS]
_SPELLED = re.compile("(" + "|".join(map(re.escape, CONTROLS)) + ")")

type Pair = tuple[list[int], list[int]]
"""A context and what follows it, neither of them empty."""


def encode(tokenizer: Tokenizer, text: str, *, add_bos: bool = True) -> list[int]:
    """Ids of a text; bos first, unless the text spells it out or `add_bos` is False."""
    ids = [tokenizer.bos] if add_bos and not text.startswith(BOS) else []
    for place, part in enumerate(_SPELLED.split(text)):  # every other part is a control token
        ids += [tokenizer.id_of(part)] if place % 2 else tokenizer.encode(part)
    return ids


def spell(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text that `encode` makes these ids of: control tokens spelled out."""
    names = {tokenizer.id_of(piece): piece for piece in CONTROLS}
    text, plain = "", []
    for token in ids:
        if token in names:
            text += tokenizer.decode(plain) + names[token]
            plain = []
        else:
            plain.append(token)
    return text + tokenizer.decode(plain)


def decode(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of generated ids, control tokens left out, that of unknown bytes too."""
    return tokenizer.decode(token for token in ids if token != tokenizer.unk)


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """Ids of a context, and those by which the whole text is longer.

    Space that ends the context goes over to the continuation, where it is part of the first piece.
    An empty context is bos, which is then not repeated.

    Raises:
      ValueError: nothing is left to be scored.
    """
    if context:
        space = context[len(context.rstrip()) :]
        context = context.removesuffix(space)
        before = encode(tokenizer, context)
        after = encode(tokenizer, context + space + continuation)[len(before) :]
    else:
        before, after = [tokenizer.bos], encode(tokenizer, continuation, add_bos=False)
        after = after[1:] if after[:1] == before else after
    if not after:
        raise ValueError(
            f"continuation: expected a text of at least one token, got {continuation!r:.80} after "
            f"{context[-80:]!r}, which have no more tokens together than the context alone"
        )
    return before, after


def rolling_pairs(tokenizer: Tokenizer, text: str, max_length: int) -> list[Pair]:
    """A text in pieces of at most `max_length` tokens, each with as much context as still fits.

    Every token is predicted once. As with the other backends, bos is one of them, after another
    bos: it is in the text as encoded *and* is the context of the first token.
    """
    tokens = encode(tokenizer, text)
    before = [tokenizer.bos, *tokens]  # before[i] is what token i is predicted from, at last
    pairs = []
    for start in range(0, len(tokens), max_length):
        end = min(start + max_length, len(tokens))
        pairs.append((before[max(0, end - max_length) : start + 1], tokens[start:end]))
    return pairs


def cut(text: str, until: Iterable[str]) -> str:
    """The text up to the first stop string, one stop string after the other."""
    for stop in until:
        if stop:
            text = text.split(stop)[0]
    return text


def conversation(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """`format_chat` as text, from which `encode` makes its ids.

    Args:
      tokenizer: one whose vocabulary has turns.
      messages: as `format_chat` takes them; those of a system role, which Gemma 2 does not have,
        are left out.
      add_generation_prompt: end with the opening of the model's turn; without it the last message
        stays open, to be continued.

    Raises:
      ValueError: see `format_chat`.
    """
    said = [message for message in messages if message["role"] != "system"]
    ids = format_chat(tokenizer, said, add_generation_prompt=add_generation_prompt)
    text = spell(tokenizer, ids)
    return text if add_generation_prompt else text.removesuffix(f"{END_OF_TURN}\n")
