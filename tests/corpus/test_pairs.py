"""Prompts and answers of one's own: read alike from three formats, and refused with their row."""

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from matchbook import corpus

WORDS = ["".join(chr(97 + (i * k + k * k) % 26) for k in range(3, 9)) for i in range(200)]
ROWS = [{"text": f"Say {w} {i} times.", "short": f"{i} {w}", "id": i} for i, w in enumerate(WORDS)]
COLUMNS = {"prompt": "text", "answer": "short"}


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def write_dataset(folder: Path, rows: list[dict]) -> Path:
    """As `datasets.Dataset.save_to_disk` does: the stream format in shards, and some JSON."""
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    half = len(rows) // 2
    for index, part in enumerate((table[:half], table[half:])):
        name = folder / f"data-0000{index}-of-00002.arrow"
        with pyarrow.ipc.new_stream(str(name), part.schema) as stream:
            stream.write_table(part)
    (folder / "state.json").write_text("{}")
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    table = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), table)
    jsonl = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return [jsonl, table, write_dataset(tmp_path / "saved", ROWS)]


def texts(pairs) -> list[tuple[str, str]]:
    return [(pair.prompt, pair.answer) for pair in pairs]


def test_three_formats_give_the_same_pairs_in_the_same_splits(sources):
    one, *others = (corpus.pairs(source, **COLUMNS) for source in sources)
    wanted = {(row["text"], row["short"]) for row in ROWS}
    assert {*texts(one.train), *texts(one.validation), *texts(one.test)} == wanted
    assert len(one.train) > 160
    for other in others:
        assert other.digest == one.digest
        for name in ("train", "validation", "test"):
            assert texts(getattr(other, name)) == texts(getattr(one, name))


def test_a_limit_takes_a_part_and_a_prompt_counts_once(tmp_path: Path):
    file = write_jsonl(tmp_path / "a.jsonl", [*ROWS, ROWS[3] | {"short": "another"}])
    everything = corpus.pairs(file, **COLUMNS)
    assert everything.skipped == {"duplicate prompt": 1}
    assert "duplicate prompt" in repr(everything)
    limited = corpus.pairs(file, **COLUMNS, max_pairs=120)
    assert sum(len(part) for part in (limited.train, limited.validation, limited.test)) == 120
    assert set(texts(limited.train)) < set(texts(everything.train))


def test_a_folder_with_its_own_splits_keeps_them(tmp_path: Path):
    places = {"train": ROWS[:150], "validation": ROWS[150:170], "test": ROWS[170:]}
    for name, rows in places.items():
        write_dataset(tmp_path / "saved" / name, rows)
    found = corpus.pairs(tmp_path / "saved", **COLUMNS)
    for name, rows in places.items():
        assert {pair.answer for pair in getattr(found, name)} == {row["short"] for row in rows}


def test_a_source_is_named_with_its_contents(sources, tmp_path: Path):
    assert corpus.pairs_identity() == "environment"
    name = corpus.pairs_identity(sources[0], **COLUMNS)
    assert name == f"rows.jsonl {corpus.pairs(sources[0], **COLUMNS).digest[:16]}"
    write_jsonl(sources[0], ROWS[1:])
    assert corpus.pairs_identity(sources[0], **COLUMNS) != name


@pytest.mark.parametrize("index", range(3))
def test_wrong_columns_are_told_with_those_there_are(sources, index: int):
    with pytest.raises(ValueError, match=r"'document'.*'short'.*found.*'id', 'short', 'text'|"
                       r"'document'.*'short'.*found.*'text', 'short', 'id'"):  # fmt: skip
        corpus.pairs(sources[index], prompt="document", answer="short")


BAD = {
    "empty": ({"text": "  ", "short": "a"}, r"row 4: 'text' is empty"),
    "no answer": ({"text": "a", "short": ""}, r"row 4: 'short' is empty"),
    "no text": ({"text": None, "short": "a"}, r"row 4: expected text in 'text', found NoneType"),
    "column gone": ({"short": "a"}, r"row 4: expected columns.*missing: text"),
    "a list": ([1, 2], r"row 4: expected columns.*found \['list'\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_is_wrong_is_refused_with_its_number(tmp_path: Path, name: str):
    row, message = BAD[name]
    file = write_jsonl(tmp_path / "a.jsonl", [*ROWS[:3], row, *ROWS[4:]])
    with pytest.raises(ValueError, match=message):
        corpus.pairs(file, **COLUMNS)


def test_sources_that_cannot_be_read_are_told(tmp_path: Path, sources):
    (tmp_path / "cut.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"text": ')
    with pytest.raises(ValueError, match=r"cut.jsonl, row 2: expected a JSON object"):
        corpus.pairs(tmp_path / "cut.jsonl", **COLUMNS)
    with pytest.raises(FileNotFoundError, match="did you mean"):
        corpus.pairs(tmp_path / "rows.jsnl", **COLUMNS)
    (tmp_path / "rows.csv").write_text("text,short")
    with pytest.raises(ValueError, match=r"expected one of .jsonl, .parquet, found '.csv'"):
        corpus.pairs(tmp_path / "rows.csv", **COLUMNS)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="found none"):
        corpus.pairs(tmp_path / "nothing", **COLUMNS)
    few = write_jsonl(tmp_path / "few.jsonl", ROWS[:2])
    with pytest.raises(ValueError, match=r"too few pairs for three splits \(train"):
        corpus.pairs(few, **COLUMNS)
    with pytest.raises(ValueError, match="max_pairs: expected at least 1"):
        corpus.pairs(few, **COLUMNS, max_pairs=0)


def test_a_dataset_of_pairs_is_rows_and_their_texts(sources):
    options = COLUMNS | {"vocab_size": 384, "ask": "\n> "}
    data = corpus.pair_dataset(sources[0], max_prompt=32, max_answer=16, **options)
    for name in ("train", "validation", "test"):
        rows, examples = getattr(data, name), data.examples[name]
        assert len(rows.tokens) == len(examples)
        last = {part: values[-1] for part, values in zip(rows._fields, rows)}
        said = last["tokens"][last["segments"] > 0].tolist()
        assert data.tokenizer.decode(said[1:]) == examples[-1].prompt + "\n> "
        assert data.tokenizer.decode([t for t in last["answers"] if t > 1]) == examples[-1].answer
        assert data.tokenizer.eos in last["answers"]
    with pytest.raises(ValueError, match=r"rows.jsonl, row \d+: expected prompt of at most 8"):
        corpus.pair_dataset(sources[0], max_prompt=8, max_answer=16, **options)


@pytest.mark.parametrize("text", ["def f():\n    return 'ü'", "", "\u2192 \U0001f600"])
def test_a_text_survives_as_a_curve(text: str):
    assert corpus.spelled(corpus.letters(text)) == text


@pytest.fixture(scope="module")
def tokenizer(real_texts) -> corpus.Tokenizer:
    return corpus.train_tokenizer(real_texts, 400)


def test_ids_spell_the_pair_and_too_long_ones_are_refused_by_row(tokenizer):
    short = corpus.Pair("def f(x):\n    return x", "Give x back.", "a.py, line 1", "a")
    long = corpus.Pair(short.prompt + "\n\n    # more" * 30, "Go on. " * 5, "a.py, line 9", "a")
    ((prompt, answer),) = corpus.encode_pairs(
        [short], tokenizer, max_prompt=60, max_answer=20, ask='\n"""'
    )
    assert (prompt[0], answer[-1]) == (tokenizer.bos, tokenizer.eos)
    assert tokenizer.decode(prompt[1:]) == short.prompt + '\n"""'
    assert tokenizer.decode(answer[:-1]) == short.answer
    limits = {"max_prompt": len(prompt), "max_answer": 60, "ask": '\n"""'}
    with pytest.raises(ValueError, match=r"line 9: expected prompt of at most .* tokens, got"):
        corpus.encode_pairs([short, long], tokenizer, **limits)
    (same, _), (cropped, _) = corpus.encode_pairs([short, long], tokenizer, **limits, crop=True)
    assert same == prompt
    assert len(cropped) == len(prompt)
    assert tokenizer.decode(cropped[1:]).endswith('\n"""')
    assert corpus.fitting([short, long], tokenizer, max_answer=len(answer)) == (short,)
    with pytest.raises(ValueError, match=r"a.py, line 1: expected answer of at most 2"):
        corpus.encode_pairs([short], tokenizer, max_prompt=60, max_answer=2)


def test_answers_that_are_all_too_long_leave_nothing_to_learn_from():
    limits = {"vocab_size": 500, "max_prompt": 8, "max_answer": 1, "max_pairs": 1500}
    with pytest.raises(ValueError, match=r"answers of at most 1 tokens \(train 0,"):
        corpus.pair_dataset(**limits)
