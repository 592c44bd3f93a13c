"""A small closed world: people, and six facts about each, as sentences and as questions.

Names are made up, so that nothing about them is known from elsewhere; values are plain words.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

OPTIONS = 4  # of a question
CONSONANTS, VOWELS = "bdfgklmnprtvz", "aeiou"


class Attribute(NamedTuple):
    """How a fact is told and asked, and what it may be."""

    statement: str
    question: str
    values: tuple[str, ...]


def _values(words: str) -> tuple[str, ...]:
    return tuple(words.split())


ATTRIBUTES = (
    Attribute(
        "{name} lives in {value}.",
        "Where does {name} live?",
        _values("Oslo Rome Lima Cairo Delhi Tokyo Paris Quito Dakar Perth Milan Kyoto"),
    ),
    Attribute(
        "{name} works as a {value}.",
        "What does {name} work as?",
        _values("baker nurse pilot judge miner tailor farmer teacher sailor barber porter writer"),
    ),
    Attribute(
        "{name} likes to eat {value}.",
        "What does {name} like to eat?",
        _values("bread rice soup cheese beans apples figs plums honey carrots noodles olives"),
    ),
    Attribute(
        "{name} keeps a {value}.",
        "What does {name} keep?",
        _values("dog cat horse goat parrot rabbit hamster turtle donkey lizard goose pigeon"),
    ),
    Attribute(
        "{name} plays the {value}.",
        "What does {name} play?",
        _values("violin piano flute drum guitar harp trumpet cello organ banjo oboe lute"),
    ),
    Attribute(
        "{name} wears {value} shoes.",
        "Which shoes does {name} wear?",
        _values("red blue green black white yellow brown purple orange silver golden grey"),
    ),
)


class Fact(NamedTuple):
    """One true sentence."""

    name: str
    attribute: Attribute
    value: str


class Item(NamedTuple):
    """A question, its options, and the index of the right one."""

    question: str
    options: tuple[str, ...]
    right: int


@dataclasses.dataclass(frozen=True)
class World:
    """People with six facts each; equal arguments, equal world.

    Raises:
      ValueError: no people, or more than there are names.
    """

    num_people: int
    seed: int = 0

    def __post_init__(self) -> None:
        most = (len(CONSONANTS) * len(VOWELS)) ** 2
        if not 1 <= self.num_people <= most:
            raise ValueError(f"num_people: expected 1 to {most:,}, got {self.num_people}")

    @functools.cached_property
    def facts(self) -> tuple[Fact, ...]:
        """All facts, person after person."""
        random = np.random.default_rng(self.seed)
        syllables = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
        chosen = random.permutation(len(syllables) ** 2)[: self.num_people]
        names = [
            (syllables[index // len(syllables)] + syllables[index % len(syllables)]).capitalize()
            for index in chosen
        ]
        return tuple(
            Fact(name, attribute, attribute.values[random.integers(len(attribute.values))])
            for name in names
            for attribute in ATTRIBUTES
        )

    def statements(self) -> tuple[str, ...]:
        """Every fact as a sentence, in the order of `facts`: text to train on."""
        return tuple(
            fact.attribute.statement.format(name=fact.name, value=fact.value) for fact in self.facts
        )

    def items(self, seed: int) -> tuple[Item, ...]:
        """A question for every fact, in the order of `facts`.

        Wrong options are values of the same attribute. The seed draws them and the places of all
        options: another seed asks for the same facts, so that the options one has seen in training
        need not be those of the test.
        """
        random = np.random.default_rng((self.seed, seed))
        return tuple(_ask(fact, random) for fact in self.facts)


def _ask(fact: Fact, random: np.random.Generator) -> Item:
    wrong = [value for value in fact.attribute.values if value != fact.value]
    options = [str(value) for value in random.choice(wrong, OPTIONS - 1, replace=False)]
    right = int(random.integers(OPTIONS))
    options.insert(right, fact.value)
    return Item(fact.attribute.question.format(name=fact.name), tuple(options), right)
