"""Text generated until a stop string: what the harness asks for in question answering and code.

Unusual: the loop of `generate` is run 16 tokens further at a time, and text looked at in between,
as a stop string ends anywhere in the pieces; most answers end long before the tokens they may take.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from matchbook.gemma.generation import begin
from matchbook.gemma.harness.encoding import cut, decode, encode
from matchbook.gemma.harness.scoring import check_sizes
from matchbook.gemma.model import Transformer
from matchbook.gemma.tokenizer import EOS, Tokenizer

STRIDE = 16
# Names for the most tokens to generate; the first that is given counts.
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
DEFAULT_LIMIT = 256


class Settings(NamedTuple):
    """How to continue a text; temperature 0 is greedy."""

    until: tuple[str, ...]
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Settings":
        """From the harness's `generation_kwargs`, in its words and with its defaults.

        Greedy unless `do_sample` or a temperature says otherwise; what only sampling needs is then
        ignored, as elsewhere. The name of eos, spelled out, is a stop string too.

        Raises:
          ValueError: an option that is not known here, or sampling at temperature 0.
        """
        known = {"until", "do_sample", "temperature", "top_k", "top_p", *LIMITS}
        if unknown := options.keys() - known:
            raise ValueError(
                f"generation_kwargs: expected some of {sorted(known)}, got {sorted(unknown)} too"
            )
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        limits = [options[name] for name in LIMITS if options.get(name) is not None]
        temperature = float(options.get("temperature") or 0.0)
        drawn = options.get("do_sample")
        drawn = temperature > 0 if drawn is None else drawn
        if drawn and not temperature > 0:
            raise ValueError("generation_kwargs: do_sample needs a temperature above 0")
        return cls(
            until=tuple(until if EOS in until else [*until, EOS]),
            max_new_tokens=int(limits[0]) if limits else DEFAULT_LIMIT,
            temperature=temperature if drawn else 0.0,
            top_k=options.get("top_k") if drawn else None,
            top_p=options.get("top_p") if drawn else None,
        )


def continue_texts(
    model: Transformer,
    tokenizer: Tokenizer,
    requests: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    batch_size: int,
    max_length: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[int, str]]:
    """The continuation of each text, with its place in `requests`, longest first.

    Stops at `tokenizer.stop_tokens` or at a stop string, and contains neither.

    Args:
      model: its layers are copied once, see `generate`.
      tokenizer: ids it does not have are never generated.
      requests: texts, each with `generation_kwargs`, see `Settings.of`. Those with the same ones
        are continued together.
      batch_size: texts at a time.
      max_length: tokens of text and continuation together, by default the config's `max_context`;
        the beginning of a longer text is cut off, to leave room for all that may be generated.
      seed: of the first batch's draws; every further batch has the next one.

    Raises:
      ValueError: `max_new_tokens` leave no room for a text; see also `Settings.of` and `score`.
    """
    longest = check_sizes(model, batch_size, max_length)
    alike = defaultdict(list)
    for place, (text, options) in enumerate(requests):
        settings = Settings.of(options)
        room = longest - settings.max_new_tokens
        if room < 1:
            raise ValueError(
                f"max_gen_toks: expected less than max_length = {longest}, got "
                f"{settings.max_new_tokens}: there would be no room for the text"
            )
        alike[settings].append((place, encode(tokenizer, text)[-room:]))
    for settings, prompts in alike.items():
        prompts.sort(key=lambda prompt: -len(prompt[1]))
        for first in range(0, len(prompts), batch_size):
            places, batch = zip(*prompts[first : first + batch_size])
            texts = _continue_batch(model, tokenizer, settings, batch, batch_size, seed)
            seed += 1
            yield from zip(places, texts)


def _continue_batch(
    model: Transformer,
    tokenizer: Tokenizer,
    settings: Settings,
    prompts: Sequence[list[int]],
    batch_size: int,
    seed: int,
) -> list[str]:
    """Continuations of up to `batch_size` prompts; rows of bos take the places left over."""
    until, most, temperature, top_k, top_p = settings
    drawing = (temperature, top_k, top_p, tokenizer.stop_tokens, seed, tokenizer.vocab_size)
    filled = [*prompts, *[[tokenizer.bos]] * (batch_size - len(prompts))]
    state, run_to = begin(model, filled, most, 1, *drawing)
    limit = 1
    while True:
        rows = zip(prompts, np.asarray(state.tokens), np.asarray(state.lengths))
        whole = [decode(tokenizer, tokens[:length].tolist()) for _, tokens, length in rows]
        texts = [cut(text, until) for text in whole]
        stopped = np.asarray(state.stopped)[: len(prompts)]
        ended = [len(text) < len(all_of_it) for text, all_of_it in zip(texts, whole)]
        if limit == most or all(stopped | ended):
            return texts
        limit = min(limit + STRIDE, most)
        state = run_to(state, limit)
