"""`matchbook generate`: what it prints is what `generate` makes; what is wrong is said at once."""

import pytest
from flax import nnx

from matchbook import corpus
from matchbook.gemma import Gemma2Config, Transformer, format_chat, generate, save_checkpoint
from matchbook.lab.command_line import main

TEXT = "def add(first, second):\n    return first + second\n\n\nclass Stone:\n    weight = 3\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    texts = [TEXT.replace("first", word) for word in ("left", "other", "before", "apple", "north")]
    tokenizer = corpus.train_tokenizer(texts, 400)
    config = Gemma2Config(
        vocab_size=416,
        embed_dim=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=32,
        sliding_window=4,
    )
    model = Transformer(config, rngs=nnx.Rngs(0))
    folder = tmp_path_factory.mktemp("generating") / "tiny"
    save_checkpoint(model, folder, tokenizer=tokenizer)
    return folder, model, tokenizer


@pytest.mark.parametrize("chat", [False, True])
def test_it_prints_what_generate_makes(checkpoint, capsys, chat):
    folder, model, tokenizer = checkpoint
    assert main(["generate", str(folder), "def ", "--max-new-tokens", "9"] + chat * ["--chat"]) == 0
    printed = capsys.readouterr()
    turn = [{"role": "user", "content": "def "}]
    ids = format_chat(tokenizer, turn) if chat else [tokenizer.bos, *tokenizer.encode("def ")]
    stops = {"stop_tokens": tokenizer.stop_tokens, "num_tokens": tokenizer.vocab_size}
    made = generate(model, [ids], max_new_tokens=9, **stops)
    length = int(made.lengths[0, 0])
    assert printed.out == tokenizer.decode(made.tokens[0, 0, :length]) + "\n"
    assert "loaded tiny in" in printed.err
    assert f"{length} tokens in" in printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "x"], "nowhere"),
        (["CHECKPOINT", "x", "--temperature", "-1"], "temperature"),
        (["CHECKPOINT", "x", "--max-new-tokens", "0"], "max_new_tokens"),
        (["CHECKPOINT", "x", "--dtype", "float8"], "float8"),
        (["CHECKPOINT", "x", "--tokenizer", "none.model"], "none.model"),
    ],
)
def test_what_is_wrong_is_said_and_the_exit_code_is_2(checkpoint, capsys, arguments, said):
    line = [str(checkpoint[0]) if word == "CHECKPOINT" else word for word in arguments]
    assert main(["generate", *line]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
