"""Sources on disk: equal content gives an equal corpus, and what is wrong is told."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from matchbook import corpus
from matchbook.corpus import environment


def story(index: int, words: int = 60) -> str:
    return "".join(f"line {line} of story {index}, told again\n" for line in range(words // 6))


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    folder = tmp_path / "stories"
    (folder / "more").mkdir(parents=True)
    for index in range(200):
        (folder / ("more" if index % 3 else ".") / f"{index}.txt").write_text(story(index))
    return folder


def contents(found: corpus.Corpus) -> set[str]:
    return {*found.train, *found.validation, *found.test}


def test_this_environment_has_text_for_all_splits():
    found = corpus.load(max_bytes=1_000_000)
    size = sum(len(text.encode()) for text in contents(found))
    assert 1_000_000 - environment.LARGEST_FILE < size <= 1_000_000
    assert found.train
    assert found.validation
    assert found.test


def test_the_same_twice_and_a_smaller_limit_takes_a_part_of_a_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for index in range(300):
        (tmp_path / f"{index}.py").write_text(story(index))
    monkeypatch.setattr(environment, "roots", lambda: {"stdlib": tmp_path})
    everything, again, limited = corpus.load(), corpus.load(), corpus.load(max_bytes=50_000)
    assert everything == again
    assert not everything.shredded
    assert not limited.shredded
    assert limited.digest != everything.digest
    assert contents(limited) < contents(everything)
    assert 50_000 - len(story(0)) - 100 < sum(map(len, contents(limited))) <= 50_000


def test_the_environment_is_listed_by_relative_names_without_what_installers_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = {
        "json/decoder.py": True,
        "json/__pycache__/decoder.py": False,
        "site-packages/pip/main.py": False,
        "_sysconfigdata__linux_x86_64.py": False,
        "notes.txt": False,
    }
    packages = {
        "jax/core.py": True,
        "six.py": True,
        "matchbook/gemma/model.py": False,
        "__editable___matchbook_0_1_finder.py": False,
        "_virtualenv.py": False,
        "jax-0.11.2.dist-info/licence.py": False,
        "old.egg-info/hook.py": False,
        "sitecustomize.py": False,
    }
    digests = set()
    for place in ("here", "elsewhere/deeper"):
        roots = {"stdlib": tmp_path / place / "std", "packages": tmp_path / place / "site-packages"}
        for label, files in (("stdlib", names), ("packages", packages)):
            for name in sorted(files, reverse=place == "here"):
                path = roots[label] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"# {name}\n" + story(len(name), 600))
                os.utime(path, (0, len(name)))
        listed = [name for name, _ in environment.listing(roots)]
        expected = [f"packages/{name}" for name, kept in packages.items() if kept]
        expected += [f"stdlib/{name}" for name, kept in names.items() if kept]
        assert listed == sorted(expected)
        monkeypatch.setattr(environment, "roots", lambda roots=roots: roots)
        digests.add(corpus.load().digest)
    assert len(digests) == 1


def test_files_over_128_kib_are_left_out_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for index in range(200):
        (tmp_path / f"{index}.py").write_text(story(index))
    (tmp_path / "table.py").write_text("#" * (environment.LARGEST_FILE + 1))
    monkeypatch.setattr(environment, "roots", lambda: {"packages": tmp_path})
    found = corpus.load()
    assert found.skipped == {"over 128 KiB": 1}
    assert len(contents(found)) == 200


def test_a_folder_gives_the_same_corpus_wherever_it_lies(stories: Path, tmp_path: Path):
    moved = tmp_path / "another" / "name"
    shutil.copytree(stories, moved)
    assert corpus.load(stories) == corpus.load(str(moved))
    (moved / "7.txt").unlink(missing_ok=True)
    (moved / "more" / "7.txt").unlink(missing_ok=True)
    assert corpus.load(stories).digest != corpus.load(moved).digest


def test_a_relative_path_starts_here_or_where_the_shell_is(
    stories: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = corpus.load(stories)
    monkeypatch.chdir(stories.parent)
    monkeypatch.setenv("PWD", "/")
    assert corpus.load("stories") == expected
    monkeypatch.chdir("/")
    monkeypatch.setenv("PWD", str(stories.parent))
    assert corpus.load("stories") == expected


def test_a_document_keeps_its_split_when_files_are_added(stories: Path):
    before = corpus.load(stories)
    for index in range(200, 260):
        (stories / f"{index}.txt").write_text(story(index))
    after = corpus.load(stories)
    for name in ("train", "validation", "test"):
        assert set(getattr(before, name)) < set(getattr(after, name))


def test_duplicates_count_once_and_line_ends_and_byte_order_marks_do_not_matter(stories: Path):
    before = corpus.load(stories)
    (stories / "copy.txt").write_bytes(story(3).replace("\n", "\r\n").encode("utf-8-sig"))
    after = corpus.load(stories)
    assert contents(after) == contents(before)
    assert after.skipped == {"duplicate": 1}


def test_bad_files_are_skipped_and_counted(stories: Path):
    before = corpus.load(stories)
    (stories / "latin.txt").write_bytes("naïve café".encode("latin-1"))
    (stories / "empty.txt").write_text(" \n")
    (stories / "broken.parquet").write_bytes(b"PAR1 cut off")
    rows = ['{"text": "one good row"}', '{"text": "cut o', '{"text": 3}', ""]
    (stories / "broken.jsonl").write_text("\n".join(rows))
    (stories / "gone.txt").symlink_to(stories / "nowhere.txt")
    (stories / "picture.png").write_bytes(b"\x89PNG")
    after = corpus.load(stories)
    assert contents(after) == contents(before) | {"one good row"}
    assert after.skipped == {
        "not UTF-8": 1,
        "empty": 1,
        "unreadable": 1,
        "line that is not JSON": 1,
        "row without text": 1,
    }


def test_an_unreadable_file_is_skipped_and_counted(stories: Path, monkeypatch: pytest.MonkeyPatch):
    (stories / "secret.txt").write_text("secret")
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "secret.txt":
            raise PermissionError(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert corpus.load(stories).skipped == {"unreadable": 1}


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_every_kind_of_file_gives_its_texts(tmp_path: Path, kind: str):
    texts = [story(index) + "é – 日本\n" for index in range(300)]
    if kind == "txt":
        for index, text in enumerate(texts):
            (tmp_path / f"{index}.txt").write_text(text, encoding="utf-8")
        source = tmp_path
    elif kind == "jsonl":
        source = tmp_path / "rows.jsonl"
        source.write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts))
    else:
        source = tmp_path / "rows.parquet"
        rows = pyarrow.table({"text": texts, "id": range(300)})
        parquet.write_table(rows, source, row_group_size=70)
    found = corpus.load(source)
    assert contents(found) == set(texts)
    assert not found.shredded
    limited = corpus.load(source, max_bytes=30_000)
    assert contents(limited) < contents(found)


def test_one_long_text_is_cut_so_that_all_splits_have_some(tmp_path: Path):
    book = tmp_path / "book.txt"
    book.write_text("".join(story(index) for index in range(2000)))
    found = corpus.load(book)
    assert found.shredded
    pieces = [*found.train, *found.validation, *found.test]
    assert sum(map(len, pieces)) == len(book.read_text())
    assert all(piece.endswith("\n") for piece in pieces)
    limited = corpus.load(book, max_bytes=100_000)
    size = sum(len(text) for text in contents(limited))
    assert 100_000 - 65_536 <= size <= 100_000


def table(**columns) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


WRONG = {
    "rows.jsonl": (b'{"body": "x", "id": 1}\n', "1: expected a field 'text', found ['body', 'id']"),
    "list.jsonl": (b'["x"]\n', "line 1: expected a field 'text', found list"),
    "rows.parquet": (table(body=["x"]), "rows.parquet: expected a column 'text', found ['body']"),
    "ids.parquet": (table(text=[1]), "expected strings in column 'text', found int64"),
    "rows.csv": (b"text\nx\n", "rows.csv: expected one of .txt, .jsonl, .parquet, found '.csv'"),
    "short.txt": (b"too short", "too little text to train, validate and test"),
    "empty.txt": (b"", "empty corpus, no text found; skipped: 1 empty"),
    "bytes.txt": (b"\xff\xfe\xfa", "empty corpus, no text found; skipped: 1 not UTF-8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(tmp_path: Path, name: str):
    content, message = WRONG[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        corpus.load(tmp_path / name)
    assert name in str(error.value)


def test_an_empty_folder_is_told(tmp_path: Path):
    (tmp_path / "notes.md").write_text("no kind of ours")
    with pytest.raises(ValueError, match=r"empty corpus.*expected files of kind \.txt, \.jsonl"):
        corpus.load(tmp_path)


def test_a_limit_that_nothing_fits_is_told(stories: Path):
    with pytest.raises(ValueError, match="200 larger than max_bytes"):
        corpus.load(stories, max_bytes=10)
    with pytest.raises(ValueError, match="max_bytes: expected at least 1 or None, got 0"):
        corpus.load(stories, max_bytes=0)


def test_a_mistyped_path_is_told_with_the_nearest(stories: Path):
    with pytest.raises(FileNotFoundError, match=r"did you mean '.*stories'"):
        corpus.load(stories.parent / "storys" / "more")
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*surely/not/there'$"):
        corpus.load("surely/not/there")
