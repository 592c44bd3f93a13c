"""Functions and their summaries: what is taken, what is left out, and that nothing leaks."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from matchbook import corpus
from matchbook.corpus import docstrings
from matchbook.corpus.pairs import split

SOURCE = '''
import os


def plain(a, b):
    """Add two numbers together.

    Not this part.
    """
    total = a + b

    return total


class Thing:
    @property
    async def size(self):
        r"""The size of   this thing."""
        return 3

    def two_lines(self):
        """The summary of this one goes on
        in the next line."""
        return 4

    def nothing_else(self):
        """There is no code below."""

    def short(self):
        """Two words."""
        return 5

    def no_docstring(self):
        text = """Text that is not a docstring."""
        return text

    def with_inner(self):
        """Hold a function of its own."""
        def inner(x):
            """Give the number back."""
            return x
        return inner


def one_line(): """Everything in one line."""; return 6
'''


def found(text: str) -> dict[str, str]:
    return {pair.answer: pair.prompt for pair in docstrings.of_file("packages/thing/a.py", text)}


def test_the_first_line_is_the_answer_and_the_code_without_it_the_prompt():
    pairs = found(SOURCE)
    assert set(pairs) == {
        "Add two numbers together.",
        "The size of this thing.",
        "Hold a function of its own.",
        "Give the number back.",
    }
    assert pairs["Add two numbers together."] == (
        "def plain(a, b):\n    total = a + b\n    return total"
    )
    assert pairs["The size of this thing."] == "async def size(self):\n    return 3"
    assert pairs["Give the number back."] == "def inner(x):\n    return x"


def test_a_pair_knows_its_line_and_its_package():
    first, *_ = docstrings.of_file("packages/thing/sub/a.py", SOURCE)
    assert (first.where, first.group) == ("packages/thing/sub/a.py, line 5", "packages/thing")
    (alone,) = docstrings.of_file("stdlib/abc.py", 'def f():\n  """One two three."""\n  return 1')
    assert alone.group == "stdlib/abc"


@pytest.mark.parametrize("text", ['def f(:\n    """a b c"""', 'x = "\0"\n"""', "no quotes", ""])
def test_what_is_no_python_gives_nothing(text: str):
    assert list(docstrings.of_file("packages/a/b.py", text)) == []


@pytest.fixture(scope="module")
def real(real_library: Path) -> list[corpus.Pair]:
    return docstrings.pairs(None, Counter(), folders={"stdlib": real_library})


def test_on_real_code_no_prompt_holds_its_docstring_and_all_still_parse(real):
    assert len(real) > 500
    for pair in real:
        (function,) = ast.parse(pair.prompt).body
        assert docstrings.summary(function) != pair.answer
        assert len(pair.answer.split()) >= 3
        assert "\n" not in pair.answer
    for part in ("prompt", "answer"):
        assert len({getattr(pair, part) for pair in real}) == len(real)


def test_no_package_is_on_two_sides(real):
    groups = [{pair.group for pair in part} for part in split(real).values()]
    assert set.union(*groups) == {f"stdlib/{name}" for name in (
        "asyncio", "email", "json", "logging", "importlib", "xml"
    )}  # fmt: skip
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_a_limit_takes_the_first_and_what_was_kept_is_read_again(
    real, real_library: Path, tmp_path: Path
):
    folders = {"stdlib": real_library}
    counts, again = Counter(), Counter()
    limited = docstrings.pairs(40, counts, tmp_path, folders)
    assert limited == real[:40]
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    assert docstrings.pairs(40, again, tmp_path, folders) == limited
    assert again == counts
    assert file.stat().st_mtime_ns == before
    file.write_text("damaged")
    assert docstrings.pairs(40, Counter(), tmp_path, folders) == limited
