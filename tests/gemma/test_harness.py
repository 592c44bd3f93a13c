"""The adapter against answers of lm-evaluation-harness's own backend (tests/goldens/harness).

What it is made of is tested without the harness; with it installed, whole evaluations are too.
"""

import importlib
import itertools
import json
import sys
import tomllib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from matchbook.gemma import generation, rollout
from matchbook.gemma.chat import format_chat
from matchbook.gemma.checkpoints import load_checkpoint
from matchbook.gemma.harness import TABLE_13, scoring, table_13
from matchbook.gemma.harness.__main__ import main
from matchbook.gemma.harness.continuing import DEFAULT_LIMIT, Settings, continue_texts
from matchbook.gemma.harness.encoding import (
    conversation,
    cut,
    encode,
    encode_pair,
    rolling_pairs,
    spell,
)
from matchbook.gemma.harness.scoring import POSITIONS, score
from matchbook.gemma.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "goldens" / "harness"
CHECKPOINT = GOLDENS / "checkpoint"
ANSWERS = json.loads((GOLDENS / "answers.json").read_text())
RUNS = yaml.safe_load((GOLDENS / "runs.yaml").read_text())
TRACES = []


@pytest.fixture(scope="module", autouse=True)
def _quick_programs():
    """The module's programs, compiled quickly and with their traces counted."""

    def quick(module, name, **options):
        function = getattr(module, name).__wrapped__

        def traced(*args, **settings):
            TRACES.append(name)
            return function(*args, **settings)

        compiled = jax.jit(traced, **options)
        patch.setattr(module, name, compiled)

    patch = pytest.MonkeyPatch()
    quick(scoring, "_hidden")
    quick(scoring, "_log_probs")
    quick(generation, "_start", static_argnames=("num_new", "num_tokens"))
    quick(generation, "_advance", static_argnames="num_tokens", donate_argnums=1)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def model():
    return load_checkpoint(CHECKPOINT, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(CHECKPOINT)


def requests_of(*runs):
    return list(itertools.chain(*(ANSWERS["runs"][run]["requests"] for run in runs)))


@pytest.fixture(scope="module")
def choices(tokenizer):
    """Pairs of the multiple-choice runs, and the backend's answers."""
    requests = requests_of("choice", "choice_beyond_context")
    pairs = [encode_pair(tokenizer, *request["arguments"]) for request in requests]
    return pairs, [request["answer"] for request in requests]


def in_order(numbered):
    """Answers in the order of what was asked, each there once."""
    numbered = sorted(numbered, key=lambda answer: answer[0])
    assert [place for place, _ in numbered] == list(range(len(numbered)))
    return [answer for _, answer in numbered]


def test_texts_have_the_ids_that_transformers_gives_them(tokenizer):
    assert any("<eos>" in text for text in ANSWERS["tokens"])
    for text, ids in ANSWERS["tokens"].items():
        assert encode(tokenizer, text) == ids, text


def test_log_likelihoods_are_the_backends(model, choices):
    pairs, theirs = choices
    ours = in_order(score(model, pairs, batch_size=16))
    assert [answer.is_greedy for answer in ours] == [greedy for _, greedy in theirs]
    np.testing.assert_allclose(
        [answer.log_prob for answer in ours], [log_prob for log_prob, _ in theirs], atol=1e-4
    )


def test_rolling_log_likelihoods_are_the_backends(model, tokenizer):
    for request in requests_of("document"):
        pairs = rolling_pairs(tokenizer, request["arguments"][0], model.config.max_context)
        total = sum(answer.log_prob for _, answer in score(model, pairs, batch_size=16))
        assert total == pytest.approx(request["answer"], abs=1e-4, rel=1e-6)


@pytest.mark.parametrize("run", [name for name in RUNS if name.startswith("answer")])
def test_generated_texts_are_the_backends(model, tokenizer, run):
    requests = requests_of(run)
    asked = [tuple(request["arguments"]) for request in requests]
    texts = continue_texts(model, tokenizer, asked, batch_size=8)
    assert in_order(texts) == [request["answer"] for request in requests]


def test_conversations_are_the_backends_and_have_the_ids_of_format_chat(tokenizer):
    for golden in ANSWERS["conversations"]:
        prompt = golden["add_generation_prompt"]
        text = conversation(tokenizer, golden["messages"], add_generation_prompt=prompt)
        assert text == golden["text"]
        if prompt:
            said = [m for m in golden["messages"] if m["role"] != "system"]
            assert encode(tokenizer, text) == format_chat(tokenizer, said)
        assert spell(tokenizer, encode(tokenizer, text)) == text


def test_scores_are_those_of_whole_sequences_one_by_one(model):
    """Against float64 softmax of the model's logits of one row, for contexts of any length."""
    generator = np.random.default_rng(0)
    lengths = [(1, 1), (1, 5), (9, 1), (3, 63), (40, 24), (63, 2), (64, 1), (70, 3), (200, 64)]
    pairs = [tuple(generator.integers(0, 408, n).tolist() for n in pair) for pair in lengths]
    whole = jax.jit(lambda model, tokens: model(tokens))
    for (context, continuation), ours in zip(pairs, in_order(score(model, pairs, batch_size=4))):
        shown = (context + continuation)[-65:][:-1]
        row = np.zeros((1, 64), np.int32)
        row[0, : len(shown)] = shown
        logits = np.asarray(whole(model, jnp.asarray(row)), np.float64)[0, : len(shown)]
        logits = logits[-len(continuation) :]
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = log_probs[range(len(continuation)), continuation].sum()
        assert ours.log_prob == pytest.approx(expected, abs=1e-3)
        assert ours.is_greedy == (logits.argmax(-1) == continuation).all()
        likeliest = [(shown[:1], logits[:1].argmax(-1).tolist())]
        assert len(continuation) < len(shown) or next(score(model, likeliest, batch_size=4))[1][1]


def test_rows_are_shared_and_batches_padded(model, choices, monkeypatch):
    """The same scores whatever the batch; letters of one choice are one row of the model."""
    pairs = choices[0][:60]
    expected = in_order(score(model, pairs, batch_size=16))
    run, rows = scoring._hidden, []

    def counted(model, tokens, segments):
        rows.append(int((np.asarray(segments).max(1) > 0).sum()))
        assert tokens.shape[0] == 7
        return run(model, tokens, segments)

    monkeypatch.setattr(scoring, "_hidden", counted)
    ours = in_order(score(model, pairs, batch_size=7))
    distinct = {(*context, *continuation[:-1]) for context, continuation in pairs}
    assert sum(rows) == len(distinct) < len(pairs)
    assert rows[:-1] == [7] * (len(rows) - 1)
    np.testing.assert_allclose(
        [a.log_prob for a in ours], [a.log_prob for a in expected], atol=1e-4
    )
    assert [a.is_greedy for a in ours] == [a.is_greedy for a in expected]


def test_more_positions_than_one_program_takes(model):
    """Logits exist for `POSITIONS` at a time; ten rows of 60 need three such programs' runs."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(0, 400, (10, 61)).tolist()
    together = in_order(score(model, [(row[:1], row[1:]) for row in tokens], batch_size=10))
    assert 2 * POSITIONS < 10 * 60
    for row, whole in zip(tokens, together):
        parts = [(row[:n], row[n : n + 20]) for n in (1, 21, 41)]
        pieces = [answer for _, answer in score(model, parts, batch_size=16)]
        assert whole.log_prob == pytest.approx(sum(p.log_prob for p in pieces), abs=1e-3)


def test_few_programs_compile(model):
    """One pair of programs for lengths up to 16, 32 and so on; none for the same lengths again."""
    pairs = [([2] * n, [5]) for n in range(1, 64)]
    TRACES.clear()
    list(score(model, pairs, batch_size=3))
    assert sorted(TRACES) == ["_hidden"] * 3 + ["_log_probs"] * 3  # 16, 32, 64
    list(score(model, pairs[::-1][:50], batch_size=3))
    assert len(TRACES) == 6


def test_rows_that_are_no_tokens_have_no_probability(model, monkeypatch):
    """As with Google's table of 256,128 rows: softmax is over the ids of the tokenizer."""
    pair = ([2, 30, 40], [50])
    tokens = jnp.asarray([[2, 30, 40]])
    logits = np.asarray(model(tokens), np.float64)[0, -1]
    run = scoring._log_probs.__wrapped__
    for rows in (408, 64):
        monkeypatch.setattr(rollout, "HUGGING_FACE_ROWS", rows)
        anew = jax.jit(lambda *arrays: run(*arrays))
        monkeypatch.setattr(scoring, "_log_probs", anew)
        (_, ours), *_ = score(model, [pair], batch_size=2)
        expected = logits[50] - np.log(np.exp(logits[:rows]).sum())
        assert ours.log_prob == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("max_length", [1, 2, 5, 7])
@pytest.mark.parametrize("words", [1, 4, 5, 6, 13])
def test_rolling_pairs_predict_every_token_once_with_full_context(tokenizer, max_length, words):
    text = "12345678901234567890"[:words]
    tokens = encode(tokenizer, text)  # bos and one token a digit
    assert len(tokens) == words + 1
    pairs = rolling_pairs(tokenizer, text, max_length)
    assert list(itertools.chain(*(continuation for _, continuation in pairs))) == tokens
    end = 0
    for context, continuation in pairs:
        end += len(continuation)
        shown = [*context, *continuation]
        assert shown == [tokenizer.bos, *tokens][: end + 1][-len(shown) :]
        assert len(shown) == min(max_length, end) + 1


def test_space_goes_over_to_the_continuation(tokenizer):
    fox = tokenizer.encode("The fox")
    for space in (" ", "  ", "\n", " \n "):
        context, continuation = encode_pair(tokenizer, "The" + space, "fox")
        assert context == [tokenizer.bos, *tokenizer.encode("The")]
        assert [*context[1:], *continuation] == tokenizer.encode(f"The{space}fox")
    assert encode_pair(tokenizer, "", "The fox") == ([tokenizer.bos], fox)
    assert encode_pair(tokenizer, "", "<bos>The fox") == ([tokenizer.bos], fox)
    assert encode_pair(tokenizer, " ", "fox") == ([tokenizer.bos], tokenizer.encode(" fox"))
    for context in ("", "The fox"):
        with pytest.raises(ValueError, match="at least one token"):
            encode_pair(tokenizer, context, "")


@pytest.mark.parametrize(
    ("text", "until", "left"),
    [
        ("one. Two", ["."], "one"),
        ("one. Two", ["x", " "], "one."),
        ("one. Two", [""], "one. Two"),
        ("one. Two", [], "one. Two"),
        (".", ["."], ""),
        ("zabc", ["bc", "ab"], "za"),  # one after the other, as the backend does
        ("zabc", ["ab", "bc"], "z"),
    ],
)
def test_text_is_cut_at_stop_strings(text, until, left):
    assert cut(text, until) == left


def test_generation_settings():
    greedy = Settings(("<eos>",), DEFAULT_LIMIT, 0.0, None, None)
    assert Settings.of({}) == Settings.of({"until": None, "temperature": 0}) == greedy
    assert Settings.of({"do_sample": False, "temperature": 0.7, "top_k": 3}) == greedy
    assert Settings.of({"until": "a"}).until == ("a", "<eos>")
    assert Settings.of({"until": ["<eos>", "a"]}).until == ("<eos>", "a")
    assert Settings.of({"max_tokens": 3, "max_new_tokens": 4, "max_gen_toks": None})[1] == 4
    drawn = {"temperature": 0.7, "top_k": 3, "top_p": 0.9}
    for options in (drawn, drawn | {"do_sample": True}):
        assert Settings.of(options) == (("<eos>",), DEFAULT_LIMIT, 0.7, 3, 0.9)
    with pytest.raises(ValueError, match="num_beams"):
        Settings.of({"num_beams": 4})
    with pytest.raises(ValueError, match="temperature above 0"):
        Settings.of({"do_sample": True})


def test_draws_differ_between_repeats_and_not_between_runs(model, tokenizer):
    options = {"temperature": 2.0, "max_gen_toks": 20, "until": []}
    asked = [("Question: Who?\nAnswer:", options)] * 16
    run = partial(continue_texts, model, tokenizer, asked, batch_size=8)
    texts = in_order(run(seed=3))
    assert len(set(texts)) == 16
    assert in_order(run(seed=3)) == texts != in_order(run(seed=4))


def test_what_cannot_be_asked(model, tokenizer):
    for pair in (([], [3]), ([3], []), ([3], [3] * 65)):
        with pytest.raises(ValueError, match=r"pairs\[1\]: expected a context and a continuation"):
            list(score(model, [([3], [4]), pair], batch_size=2))
    for max_length in (0, 65):
        with pytest.raises(ValueError, match="1 to max_context = 64"):
            list(score(model, [], batch_size=2, max_length=max_length))
    with pytest.raises(ValueError, match="batch_size"):
        list(score(model, [], batch_size=0))
    asked = [("x", {"max_gen_toks": 64})]
    with pytest.raises(ValueError, match="no room for the text"):
        list(continue_texts(model, tokenizer, asked, batch_size=1))


def test_table_13_has_every_row_of_the_paper():
    claims = tomllib.loads((ROOT / "notebooks" / "claims.toml").read_text())["claim"]
    (rows,) = (claim["values"] for claim in claims if claim["where"] == "Table 13")
    assert [(row.name, row.metric) for row in TABLE_13] == [
        (row["benchmark"], row["metric"]) for row in rows
    ]
    for row in TABLE_13:  # the printed shots, unless the task brings its own examples
        assert row.shots is None or row.metric.startswith(f"{row.shots}-shot")


def test_table_13_runs_rows_with_their_shots(monkeypatch):
    asked = []

    def simple_evaluate(*, tasks, num_fewshot, confirm_run_unsafe_code, **options):
        asked.append((tasks, num_fewshot, confirm_run_unsafe_code, options["limit"]))
        (row,) = (row for row in TABLE_13 if row.task == tasks[0])
        return {"results": {row.task: {row.score: 0.25, "alias": row.task}}}

    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(simple_evaluate=simple_evaluate))
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "0")
    scores = {row.name: percent for row, percent in table_13(None, limit=2)}
    assert scores == {row.name: 25.0 for row in TABLE_13 if not row.runs_code}
    assert (["arc_challenge"], 25, False, 2) in asked
    asked.clear()
    assert len(list(table_13(None, benchmarks=["HumanEval", "MMLU"], run_code=True))) == 2
    assert asked == [(["humaneval"], None, True, None), (["mmlu"], 5, False, None)]
    with pytest.raises(ValueError, match=r"\['HumanEval'\] execute"):
        next(table_13(None, benchmarks=["HumanEval", "MMLU"]))
    with pytest.raises(ValueError, match=r"got \['Humaneval'\]"):
        next(table_13(None, benchmarks=["Humaneval"]))


def test_without_the_harness_it_says_how_to_install_it(monkeypatch):
    loaded = [n for n in sys.modules if n.split(".")[0] == "lm_eval"]
    for name in {"lm_eval", *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "matchbook.gemma.harness.adapter", raising=False)
    package = importlib.import_module("matchbook.gemma.harness")
    monkeypatch.delattr(package, "adapter", raising=False)
    for needed in (lambda: package.Gemma2Harness, lambda: next(table_13(None)), main):
        with pytest.raises(ImportError, match=r"pip install 'matchbook\[eval\]'"):
            needed()


# With the harness installed (extra `eval`): whole evaluations through its own functions.


@pytest.fixture(scope="module")
def lm_eval():
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("HF_DATASETS_OFFLINE", "1")
    yield pytest.importorskip("lm_eval")
    patch.undo()


@pytest.fixture(scope="module")
def tasks_folder(tmp_path_factory):
    """The tasks with the places of their documents."""
    folder = tmp_path_factory.mktemp("tasks")
    for path in (GOLDENS / "tasks").glob("*.yaml"):
        files = sorted(path.parent.glob(f"{path.stem}.*.jsonl"))
        data_files = {file.name.split(".")[1]: str(file) for file in files}
        config = yaml.safe_load(path.read_text()) | {"dataset_kwargs": {"data_files": data_files}}
        (folder / path.name).write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def task_manager(lm_eval, tasks_folder):
    manager = importlib.import_module("lm_eval.tasks").TaskManager
    return manager(include_path=str(tasks_folder))


def check_metrics(results, name):
    for metric, theirs in ANSWERS["runs"][name]["metrics"].items():
        assert results["results"][RUNS[name]["task"]][metric] == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_evaluations_are_the_backends(lm_eval, task_manager, model, tokenizer, name):
    from matchbook.gemma.harness import Gemma2Harness

    results = lm_eval.simple_evaluate(
        model=Gemma2Harness(model, tokenizer, batch_size=8),
        tasks=[RUNS[name]["task"]],
        task_manager=task_manager,
        bootstrap_iters=0,
        **{key: value for key, value in RUNS[name].items() if key != "task"},
    )
    check_metrics(results, name)
    samples = sorted(results["samples"][RUNS[name]["task"]], key=lambda sample: sample["doc_id"])
    ours = [
        {"arguments": list(arguments), "answer": answer}
        for sample in samples
        for arguments, (answer,) in zip(sample["arguments"], sample["resps"])
    ]
    theirs = requests_of(name)
    assert [r["arguments"] for r in ours] == [r["arguments"] for r in theirs]
    for our, their in zip(ours, theirs):
        if RUNS[name]["task"] == "answer":
            assert our["answer"] == their["answer"]
        else:
            np.testing.assert_allclose(our["answer"], their["answer"], atol=1e-4, rtol=1e-6)


def test_command_line(lm_eval, tasks_folder, tmp_path, monkeypatch, capsys):
    arguments = ["--model", "matchbook", "--tasks", "choice", "--include_path", str(tasks_folder)]
    arguments += ["--model_args", f"checkpoint={CHECKPOINT},dtype=float32,batch_size=16"]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments, "--output_path", str(tmp_path)])
    main()
    assert "acc_mutual_info" in capsys.readouterr().out
    (written,) = tmp_path.rglob("results_*.json")
    check_metrics(json.loads(written.read_text()), "choice")


def test_arguments_of_the_command_line(lm_eval):
    from matchbook.gemma.harness import Gemma2Harness

    create = Gemma2Harness.create_from_arg_string
    harness = create(
        f"checkpoint={CHECKPOINT},max_length=32", {"batch_size": "4", "device": "cuda:0"}
    )
    assert (harness.batch_size, harness.max_length) == (4, 32)
    assert harness.model.embedder.table.dtype == jnp.bfloat16  # the file's own
    assert create(f"checkpoint={CHECKPOINT},batch_size=2", {"batch_size": 1}).batch_size == 2
    with pytest.raises(ValueError, match="checkpoint=PATH"):
        create("pretrained=x")
    with pytest.raises(ValueError, match="'auto'"):
        create(f"checkpoint={CHECKPOINT}", {"batch_size": "auto"})
    with pytest.raises(ValueError, match="max_batch_size"):
        create(f"checkpoint={CHECKPOINT}", {"max_batch_size": 64})


def test_table_13_names_tasks_that_the_harness_has(task_manager):
    for row in TABLE_13:
        assert task_manager.match_tasks([row.task]) == [row.task]
