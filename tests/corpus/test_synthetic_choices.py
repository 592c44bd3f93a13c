"""Multiple choice: each format as written, scores against a loop, facts told and asked alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matchbook import corpus
from matchbook.corpus.synthetic import World, choices
from matchbook.corpus.synthetic.choices import FORMATS, Format
from matchbook.corpus.synthetic.world import ATTRIBUTES, Item

ITEM = Item("Where does Zora live?", ("Oslo", "Rome", "Lima", "Cairo"), right=2)

GOLDEN = {
    ("lines", "letters"): "Question: Where does Zora live?\n"
    "A. Oslo\nB. Rome\nC. Lima\nD. Cairo\nAnswer:",
    ("lines", "digits"): "Question: Where does Zora live?\n"
    "1. Oslo\n2. Rome\n3. Lima\n4. Cairo\nAnswer:",
    ("inline", "letters"): "Choose one. Where does Zora live? "
    "(A) Oslo (B) Rome (C) Lima (D) Cairo Choice:",
    ("inline", "digits"): "Choose one. Where does Zora live? "
    "(1) Oslo (2) Rome (3) Lima (4) Cairo Choice:",
    ("sentence", "letters"): "Where does Zora live? "
    "Is it A: Oslo, B: Rome, C: Lima or D: Cairo? It is",
    ("sentence", "digits"): "Where does Zora live? "
    "Is it 1: Oslo, 2: Rome, 3: Lima or 4: Cairo? It is",
}
WORLD = World(num_people=5, seed=1)


@pytest.fixture(scope="module")
def tokenizer() -> corpus.Tokenizer:
    texts = [choices.document(item, format) for item in WORLD.items(0) for format in FORMATS]
    return corpus.train_tokenizer([*texts, *WORLD.statements()], 448)


@pytest.mark.parametrize(("template", "style"), GOLDEN)
def test_each_format_renders_as_written(template, style):
    found = choices.render(ITEM, template, style)
    assert found.prompt == GOLDEN[template, style]
    assert found.labels == (
        (" A", " B", " C", " D") if style == "letters" else (" 1", " 2", " 3", " 4")
    )
    assert found.answers == (" Oslo", " Rome", " Lima", " Cairo")
    for scoring, right in (("label", found.labels[2]), ("answer", " Lima")):
        assert choices.document(ITEM, Format(template, style, scoring)) == found.prompt + right


def test_there_are_twelve():
    assert len(set(FORMATS)) == 12
    assert len({choices.document(ITEM, format) for format in FORMATS}) == 12
    with pytest.raises((ValueError, TypeError), match="poem"):
        choices.render(ITEM, "poem", "letters")


@pytest.mark.parametrize("format", [FORMATS[0], FORMATS[7]], ids=str)
def test_scores_are_those_of_a_loop(tokenizer, format):
    items = WORLD.items(3)[:6]
    rows = choices.scoring_rows(items, format, tokenizer, time=72)
    assert rows.tokens.shape == (24, 72)
    table = np.random.default_rng(0).normal(size=(448, 448)).astype(np.float32) * 3
    logits = jnp.asarray(table)[rows.tokens]  # a model of bigrams
    log_probs = np.asarray(choices.next_token_log_probs(logits, jnp.asarray(rows.tokens)))
    found = choices.option_scores(log_probs, rows, format.scoring)
    log_table = np.asarray(jax.nn.log_softmax(table))
    right = 0
    for index, item in enumerate(items):
        rendered = choices.render(item, format.template, format.label_style)
        options = rendered.labels if format.scoring == "label" else rendered.answers
        scores = []
        for option in options:
            # Encoded in one go: prompt and continuation meet where the tokenizer cuts anyway.
            prompt = [tokenizer.bos, *tokenizer.encode(rendered.prompt)]
            whole = [tokenizer.bos, *tokenizer.encode(rendered.prompt + option)]
            terms = [log_table[whole[t - 1], whole[t]] for t in range(len(prompt), len(whole))]
            scores.append(sum(terms) / (len(terms) if format.scoring == "answer" else 1))
        np.testing.assert_allclose(found[index], scores, rtol=1e-5)
        right += int(np.argmax(scores)) == item.right
    assert choices.accuracy(found, items) == pytest.approx(right / 6)


def test_longer_answers_are_normalised_and_labels_are_not():
    rows = choices.ScoringRows(
        *(np.zeros((4, 5), np.int32) for _ in range(3)),
        where=np.array([[0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 0, 0]], bool),
    )
    log_probs = np.array(
        [[9, -2, 9, 9, 9], [9, -1, -2, 9, 9], [9, -1, -1, -2, 9], [9, -3, 9, 9, 9]]
    )
    log_probs = log_probs.astype(np.float32)
    np.testing.assert_allclose(choices.option_scores(log_probs, rows, "label"), [[-2, -3, -4, -3]])
    answers = choices.option_scores(log_probs, rows, "answer")
    np.testing.assert_allclose(answers, [[-2, -1.5, -4 / 3, -3]])
    assert choices.accuracy(answers, [ITEM]) == 1
    log_probs[2, 1] = np.nan
    with pytest.raises(ValueError, match="got NaN"):
        choices.option_scores(log_probs, rows, "label")


def test_scoring_rows_are_padded_batches(tokenizer):
    rows = choices.scoring_rows([ITEM], FORMATS[1], tokenizer, time=80)
    lengths = (rows.segments == 1).sum(axis=1)
    for tokens, positions, length in zip(rows.tokens, rows.positions, lengths, strict=True):
        assert tokens[0] == tokenizer.bos
        assert (tokens[length:] == 0).all()
        np.testing.assert_array_equal(positions[:length], np.arange(length))
    assert tokenizer.decode(rows.tokens[3, : lengths[3]]) == GOLDEN["lines", "letters"] + " Cairo"
    with pytest.raises(ValueError, match=r"needs rows of \d+ tokens, got 20"):
        choices.scoring_rows([ITEM], FORMATS[1], tokenizer, time=20)
    with pytest.raises(ValueError, match="at least one, got none"):
        choices.scoring_rows([], FORMATS[1], tokenizer, time=20)


def test_what_is_asked_is_what_is_told():
    statements, facts = WORLD.statements(), WORLD.facts
    assert len(statements) == len(facts) == 30
    assert len({fact.name for fact in facts}) == 5
    for seed in (0, 1):
        for item, fact, statement in zip(WORLD.items(seed), facts, statements, strict=True):
            assert item.options[item.right] == fact.value
            assert fact.name in item.question
            assert fact.name in statement
            assert fact.value in statement
            assert len(set(item.options)) == 4
            assert set(item.options) <= set(fact.attribute.values)


def test_worlds_depend_on_the_seed_alone_and_right_places_are_even():
    assert World(5, seed=1).facts == WORLD.facts != World(5, seed=2).facts
    assert WORLD.items(0) == World(5, seed=1).items(0) != WORLD.items(1)
    big = World(200)
    places = np.bincount([item.right for item in big.items(0)], minlength=4)
    assert np.abs(places - 300).max() < 70  # standard deviation 15
    assert len({fact.name for fact in big.facts}) == 200
    for attribute in ATTRIBUTES:
        assert len(set(attribute.values)) == len(attribute.values)
    with pytest.raises(ValueError, match="num_people: expected 1 to 4,225, got 0"):
        World(0)


def test_the_noise_floor_is_that_of_a_simulation():
    draws = np.random.default_rng(0).binomial(150, 0.3, 20_000) / 150
    assert choices.binomial_noise(0.3, 150) == pytest.approx(draws.std(), rel=0.03)
    assert choices.binomial_noise(1, 150) == 0
