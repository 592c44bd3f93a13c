"""Golden answers of lm-evaluation-harness's Hugging Face backend, on a checkpoint made here.

    python3.12 -m venv goldens && goldens/bin/pip install \\
        lm-eval==0.4.13 torch==2.13.0 transformers==5.23.0 accelerate sentencepiece
    goldens/bin/python tests/goldens/harness/make.py .venv/bin/python

None of these is a dependency of matchbook; the argument is a Python that has it, for the tokenizer.
The tasks are in tasks/NAME.yaml and what is run on them in runs.yaml. Made here, and committed:

    tasks/NAME.SPLIT.jsonl    their documents: questions about animals, and texts about them
    checkpoint/               a Gemma 2 of 30,000 parameters, trained here to answer some of them
    answers.json              run -> requests with the backend's answers, and the metrics
                              tokens: the backend's ids of every text in there
                              conversations: messages and what their chat template makes of them

The checkpoint is trained so that some likeliest continuations are right, some generations end by
themselves and others at a stop string or at the limit; its context is so short that few-shot
prompts and documents do not fit. All of that is asserted before anything is written.
"""

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import lm_eval
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from transformers import Gemma2Config, Gemma2ForCausalLM, GemmaTokenizer

HERE = Path(__file__).parent
CHECKPOINT = HERE / "checkpoint"
CONTEXT = 64
ANIMALS = ["fox", "owl", "bear", "frog", "swan", "crab", "wolf", "hare", "mole", "seal"]
COLOURS = ["red", "grey", "brown", "green", "white", "blue"]
FOODS = ["fish", "roots", "leaves", "seeds", "mice", "honey"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]
TEMPLATE = """{{ bos_token }}\
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif -%}
{%- for message in messages -%}
{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n'
   + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""
TRAIN_TOKENIZER = """
import json, sys
from matchbook.corpus import train_tokenizer
train_tokenizer(json.load(sys.stdin), 400).save(sys.argv[1])
"""


def facts() -> list[tuple[str, str, str]]:
    """Each animal's colour and food."""
    return [(a, COLOURS[i % 5], FOODS[(2 * i) % 6]) for i, a in enumerate(ANIMALS)]


def training_texts() -> list[str]:
    texts = []
    for animal, colour, food in facts():
        coloured, fed = f"The {animal} is {colour}", f"The {animal} eats {food}"
        texts += [
            f"Question: What colour is the {animal}?\nAnswer: {coloured}.\n\n",
            f"Question: What does the {animal} eat?\nAnswer: {fed}. It is {colour}.\n\n",
            f"Question: Is the {animal} {colour}?\nAnswer: Yes.",
            f"{coloured}. It eats {food}. {fed}, and it is {colour}.",
        ]
        asked = f"Question: What colour is the {animal}?\nAnswer:"
        turn = f"user\n{asked}<end_of_turn>\n<start_of_turn>model\n{coloured}.<end_of_turn>\n"
        texts += [f"<start_of_turn>{turn}", f"x.<end_of_turn>\n<start_of_turn>{turn}"]
    texts.insert(4, f"Question: Who?\nAnswer: {' '.join(ANIMALS * 3)}")
    return texts


def documents() -> dict[str, list[dict[str, Any]]]:
    """Of each task and split."""
    known = facts()
    endings = ["", " ", "\n", "", "  ", "", " <eos>", " é", "", ""]
    choices = [
        {"animal": a, "colour": c, "colours": COLOURS[:5], "ending": e}
        for (a, c, _), e in zip(known, endings)
    ]
    choices[3]["colours"] = ["green", "green and white", "grün", "no", "<unk>"]
    questions = [(f"What colour is the {a}?", f"The {a} is {c}.") for a, c, _ in known[:4]]
    questions += [(f"What does the {a} eat?", f"The {a} eats {f}") for a, _, f in known[2:6]]
    questions += [(f"Is the {a} {c}?", "Yes.") for a, c, _ in known[5:8]] + [("Who?", "fox")]
    answers = [{"question": q, "answer": a} for q, a in questions]
    story = " ".join(f"The {a} is {c}. It eats {f}." for a, c, f in known)
    texts = ["The fox is red.", "<bos>The owl", "Ein Bär, 27 Füchse.\n\tUnd?", story[:170]]
    texts.append(f"{story} {story} {story[::-1]}")
    return {
        "choice.train": choices[5:],
        "choice.test": choices,
        "answer.train": answers[::2],
        "answer.test": answers,
        "document.test": [{"text": text} for text in texts],
    }


def save_tokenizer(matchbook: str, folder: Path) -> None:
    """Ours, and beside it what transformers wants to know to read it."""
    command = [matchbook, "-c", TRAIN_TOKENIZER, folder / "tokenizer.model"]
    texts = training_texts() * 10 + [d["text"] for d in documents()["document.test"]]
    subprocess.run(command, input=json.dumps(texts), text=True, check=True)
    settings = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True}
    settings |= {"additional_special_tokens": TURNS, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def train(tokenizer: GemmaTokenizer, steps: int = 300) -> Gemma2ForCausalLM:
    """A small model that knows the first animals well; later ones are rare in training."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=408,  # more rows than the tokenizer has ids
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        max_position_embeddings=CONTEXT,
        eos_token_id=[1, tokenizer.convert_tokens_to_ids("<end_of_turn>")],
        attn_implementation="eager",  # the one that applies the soft-cap
    )
    model = Gemma2ForCausalLM(config)
    texts = training_texts()
    rows = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
    for row, text in zip(rows, texts):
        ids = torch.tensor([*tokenizer.encode(text), tokenizer.eos_token_id][:CONTEXT])
        row[: len(ids)] = ids
    rarity = torch.tensor([0.9**i for i in range(len(texts))])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        batch = rows[torch.multinomial(0.2 + rarity, 16)]
        labels = batch.masked_fill(batch == 0, -100)
        loss = model(batch, attention_mask=(batch > 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"trained to {loss.item():.2f} nats a token, of 6.0")
    return model


def task(name: str) -> dict[str, Any]:
    """The task with the places of its documents; the tests do the same."""
    config = yaml.safe_load((HERE / "tasks" / f"{name}.yaml").read_text())
    files = sorted((HERE / "tasks").glob(f"{name}.*.jsonl"))
    data_files = {file.name.split(".")[1]: str(file) for file in files}
    return config | {"dataset_kwargs": {"data_files": data_files}}


def evaluate(backend: HFLM, run: dict[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in run.items() if key != "task"}
    results = lm_eval.simple_evaluate(
        model=backend, tasks=[task(run["task"])], bootstrap_iters=0, **options
    )
    samples = {sample["doc_id"]: sample for sample in results["samples"][run["task"]]}
    requests = [
        {"arguments": list(arguments), "answer": answer}
        for sample in samples.values()
        for arguments, (answer,) in zip(sample["arguments"], sample["resps"], strict=True)
    ]
    metrics = {
        key: value
        for key, value in results["results"][run["task"]].items()
        if isinstance(value, float) and "stderr" not in key
    }
    return {"metrics": metrics, "requests": requests}


def conversations(backend: HFLM) -> list[dict[str, Any]]:
    user, model = {"role": "user", "content": " Who? "}, {"role": "assistant", "content": "fox.\n"}
    system = {"role": "system", "content": "Be brief."}
    found = []
    for messages, prompt in [
        ([user], True),
        ([system, user], True),
        ([user, model, user], True),
        ([user, model], False),
        ([user, model, user, model], False),
    ]:
        text = backend.apply_chat_template(messages, add_generation_prompt=prompt)
        found.append({"messages": messages, "add_generation_prompt": prompt, "text": text})
    return found


def check(runs: dict[str, Any], tokens: dict[str, list[int]]) -> None:
    """That the answers are of all kinds."""
    for name in ("choice", "choice_beyond_context"):
        greedy = [request["answer"][1] for request in runs[name]["requests"]]
        assert 3 < sum(greedy) < len(greedy) - 3, (name, sum(greedy), len(greedy))
    lengths = [len(tokens[r["arguments"][0]]) for r in runs["document"]["requests"]]
    assert max(lengths) > 3 * CONTEXT, lengths
    assert min(lengths) < CONTEXT, lengths
    for name, room in (("choice_beyond_context", CONTEXT), ("answer_beyond_context", CONTEXT - 20)):
        lengths = [len(tokens[r["arguments"][0]]) for r in runs[name]["requests"]]
        assert any(length > room for length in lengths), (name, lengths)
    for name, metric in (("choice", "acc,none"), ("answer", "exact_match,stripped")):
        assert 0 < runs[name]["metrics"][metric] < 1, runs[name]["metrics"]
    answers = [request["answer"] for request in runs["answer"]["requests"]]
    assert answers[-1].split() == (ANIMALS * 2)[:20], answers  # ended by the limit
    assert any(answer == " Yes." for answer in answers), answers  # by eos
    assert any("eats" in answer and "." not in answer for answer in answers), answers  # by ". It"
    chatted = [request["answer"] for request in runs["answer_in_a_chat"]["requests"]]
    assert len(set(chatted) - {""}) > 3, chatted
    print(answers, chatted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    random.seed(0)
    for name, rows in documents().items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (HERE / "tasks" / f"{name}.jsonl").write_text("".join(lines))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_tokenizer(sys.argv[1], folder)
        tokenizer = GemmaTokenizer.from_pretrained(folder)
        train(tokenizer).to(torch.bfloat16).save_pretrained(folder)
        backend = HFLM(
            str(folder), dtype="float32", device="cpu", batch_size=4, attn_implementation="eager"
        )
        definitions = yaml.safe_load((HERE / "runs.yaml").read_text())
        runs = {name: evaluate(backend, run) for name, run in definitions.items()}
        answers = {"conversations": conversations(backend), "runs": runs}
        requests = itertools.chain(*(run["requests"] for run in runs.values()))
        texts = {a for r in requests for a in r["arguments"] if isinstance(a, str)}
        answers["tokens"] = {text: backend.tok_encode(text) for text in sorted(texts)}
        check(runs, answers["tokens"])
        shutil.rmtree(CHECKPOINT, ignore_errors=True)
        CHECKPOINT.mkdir()
        for name in ("config.json", "generation_config.json", "model.safetensors"):
            shutil.copyfile(folder / name, CHECKPOINT / name)
        shutil.copyfile(folder / "tokenizer.model", CHECKPOINT / "tokenizer.model")
    (HERE / "answers.json").write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n")
    for file in sorted(HERE.rglob("*")):
        print(f"{file.relative_to(HERE)}: {file.stat().st_size:,} bytes")
