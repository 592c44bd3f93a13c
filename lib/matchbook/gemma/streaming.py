"""Tokens and text as they come, for a notebook cell or the command line.

Unusual: a stream is `generate`'s program run to nearer limits, a few tokens a dispatch, so its
tokens are those of `generate`; text comes out only once its bytes are complete.

    for piece in text_pieces(stream(model, prompt, max_new_tokens=100), tokenizer.decode):
        print(piece, end="", flush=True)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from matchbook.gemma.generation import begin
from matchbook.gemma.model import Transformer


def stream(
    model: Transformer,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: int | float = 0.0,
    top_k: int | None = None,
    top_p: int | float | None = None,
    stop_tokens: Sequence[int] = (),
    seed: int = 0,
    num_tokens: int | None = None,
    every: int = 4,
) -> Iterator[list[int]]:
    """Yields the first token that continues the prompt, then up to `every` tokens at a time.

    Together they are `generate(...).tokens[0, 0]` up to its length, stop token included; arguments
    and errors are those of `generate`, raised when the first token is asked for.
    """
    if every < 1:
        raise ValueError(f"every: expected at least 1 token, got {every}")
    options = (max_new_tokens, 1, temperature, top_k, top_p, stop_tokens, seed, num_tokens)
    state, run_to = begin(model, [prompt], *options)
    shown = 0
    while True:
        length = int(state.lengths[0])
        yield state.tokens[0, shown:length].tolist()
        shown = length
        if bool(state.stopped[0]) or length == max_new_tokens:
            return
        state = run_to(state, min(length + every, max_new_tokens))


def text_pieces(tokens: Iterable[list[int]], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """Text as it grows with each list of tokens; joined, what `decode` makes of all of them.

    Args:
      tokens: for example from `stream`.
      decode: a tokenizer's. A character whose bytes have not all come yet ends its text in U+FFFD;
        it is held back until they have, or nothing more comes.
    """
    so_far, shown = [], ""
    for new in tokens:
        so_far += new
        text = decode(so_far)
        complete = text.rstrip("\ufffd")
        if len(complete) > len(shown) and complete.startswith(shown):
            yield complete[len(shown) :]
            shown = complete
    if rest := decode(so_far)[len(shown) :]:
        yield rest
