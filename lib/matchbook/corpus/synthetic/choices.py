"""Multiple choice in 12 formats: does a score depend on how a question is put (Table 11)?

The paper does not list its 12. Ours: 3 templates x 2 styles of label x 2 ways to score. The facts
asked for are those of a small closed world, which is text to train on, too.
"""

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from matchbook.corpus.synthetic.world import OPTIONS, Item
from matchbook.corpus.tokenizer import Tokenizer

Template = Literal["lines", "inline", "sentence"]
LabelStyle = Literal["letters", "digits"]
Scoring = Literal["label", "answer"]  # which continuation the model is asked about

LABELS: dict[LabelStyle, str] = {"letters": "ABCD", "digits": "1234"}


class Format(NamedTuple):
    """One of the 12 ways to ask."""

    template: Template
    label_style: LabelStyle
    scoring: Scoring


FORMATS = tuple(
    Format(*parts)
    for parts in itertools.product(get_args(Template), get_args(LabelStyle), get_args(Scoring))
)


class Rendered(NamedTuple):
    """A prompt, and what may follow it: for each option its label, and its text."""

    prompt: str
    labels: tuple[str, ...]
    answers: tuple[str, ...]


def render(item: Item, template: Template, label_style: LabelStyle) -> Rendered:
    """The item as a prompt that shows question and options; continuations begin with a space."""
    labelled = list(zip(LABELS[label_style], item.options, strict=True))
    match template:
        case "lines":
            options = "".join(f"{label}. {option}\n" for label, option in labelled)
            prompt = f"Question: {item.question}\n{options}Answer:"
        case "inline":
            options = " ".join(f"({label}) {option}" for label, option in labelled)
            prompt = f"Choose one. {item.question} {options} Choice:"
        case "sentence":
            *first, last = (f"{label}: {option}" for label, option in labelled)
            prompt = f"{item.question} Is it {', '.join(first)} or {last}? It is"
        case _:
            raise ValueError(f"template: expected one of {get_args(Template)}, got {template!r}")
    return Rendered(
        prompt,
        labels=tuple(f" {label}" for label, _ in labelled),
        answers=tuple(f" {option}" for option in item.options),
    )


def document(item: Item, format: Format) -> str:
    """The question with its right continuation: text to train on in this format."""
    prompt, continuations = _prompt_and_continuations(item, format)
    return prompt + continuations[item.right]


class ScoringRows(NamedTuple):
    """Rows for a model: each item with each of its options, items in order, padded alike.

    where: True where the next token belongs to the continuation.
    """

    tokens: Int[np.ndarray, "rows time"]
    positions: Int[np.ndarray, "rows time"]
    segments: Int[np.ndarray, "rows time"]
    where: Bool[np.ndarray, "rows time"]


def scoring_rows(
    items: Sequence[Item], format: Format, tokenizer: Tokenizer, time: int
) -> ScoringRows:
    """What a model must read to be scored: bos, prompt, continuation.

    Args:
      items: questions.
      format: how they are put.
      tokenizer: prompt and continuation are encoded apart, and meet at a space.
      time: tokens in a row: one for all formats, so that one compilation serves them.

    Raises:
      ValueError: no item, or a row needs more than `time` tokens.
    """
    if not items:
        raise ValueError("items: expected at least one, got none")
    prompts, continuations = [], []
    for item in items:
        prompt, options = _prompt_and_continuations(item, format)
        prompts += [[tokenizer.bos, *tokenizer.encode(prompt)]] * OPTIONS
        continuations += tokenizer.encode_all(options)
    starts = np.array([len(ids) for ids in prompts])
    ends = starts + [len(ids) for ids in continuations]
    if ends.max() > time:
        raise ValueError(f"time: {format} needs rows of {ends.max()} tokens, got {time}")
    place = np.arange(time, dtype=np.int32)
    tokens = np.zeros((len(ends), time), np.int32)
    for row, prompt, continuation in zip(tokens, prompts, continuations, strict=True):
        row[: len(prompt) + len(continuation)] = prompt + continuation
    inside = place < ends[:, None]
    where = (place >= starts[:, None] - 1) & (place < ends[:, None] - 1)
    return ScoringRows(tokens, np.where(inside, place, 0), inside.astype(np.int32), where)


def next_token_log_probs(
    logits: Float[Array, "rows time vocab"], tokens: Int[Array, "rows time"]
) -> Float[Array, "rows time"]:
    """Log-probability of each position's next token; 0 at the end of a row, where there is none."""
    log_probs = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    picked = jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.pad(picked, ((0, 0), (0, 1)))


def option_scores(
    log_probs: Float[np.ndarray, "rows time"], rows: ScoringRows, scoring: Scoring
) -> Float[np.ndarray, "items options"]:
    """The score of each option, from the log-probabilities of next tokens.

    `label`: the log-probability of the label. `answer`: that of the option's text, divided by its
    number of tokens, so that long answers are not at a loss.

    Raises:
      ValueError: a score that is no number.
    """
    counted = np.where(rows.where, np.asarray(log_probs, np.float64), 0.0).sum(axis=1)
    if scoring == "answer":
        counted = counted / rows.where.sum(axis=1)
    if np.isnan(counted).any():
        raise ValueError("log_probs: expected numbers, got NaN: has the model diverged?")
    return counted.reshape(-1, OPTIONS)


def accuracy(scores: Float[np.ndarray, "items options"], items: Sequence[Item]) -> float:
    """The share of the items whose right option scores best. Guessing gives 1 / `OPTIONS`."""
    return float((scores.argmax(axis=1) == [item.right for item in items]).mean())


def binomial_noise(accuracy: int | float, num_items: int) -> float:
    """sqrt(p (1 - p) / n): the spread of an accuracy from the choice of the items alone.

    An upper bound on what chance adds to the spread over formats, which share their items.
    """
    return float(np.sqrt(accuracy * (1 - accuracy) / num_items))


def _prompt_and_continuations(item: Item, format: Format) -> tuple[str, tuple[str, ...]]:
    rendered = render(item, format.template, format.label_style)
    return rendered.prompt, rendered.labels if format.scoring == "label" else rendered.answers
