"""`matchbook generate CHECKPOINT "prompt"`: text from a checkpoint, as it comes.

Unusual: nothing but the continuation goes to standard output, so that it can be piped; what is
being loaded and how fast it went go to standard error.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from matchbook.lab.parameters import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="a folder in Hugging Face's or Google's layout, with its tokenizer.model",
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what is continued; - reads it from stdin")
    parser.add_argument("--chat", action="store_true", help="the prompt is a user's turn")
    parser.add_argument(
        "--max-new-tokens", metavar="N", type=int, default=256, help="at most so many (256)"
    )
    parser.add_argument(
        "--temperature", metavar="T", type=float, default=0.0, help="0, the default, is greedy"
    )
    parser.add_argument("--top-k", metavar="K", type=int, help="draw from the K likeliest only")
    parser.add_argument(
        "--top-p", metavar="P", type=float, help="draw from the likeliest that hold the share P"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--dtype", help="bfloat16, float16 or float32 (default: the file's)")
    parser.add_argument(
        "--tokenizer", metavar="FILE", type=Path, help="default: tokenizer.model in the folder"
    )


def generate_text(options: argparse.Namespace) -> int:
    """Runs the command; 0 once the text has ended.

    Raises:
        UsageError: no such checkpoint or tokenizer, or arguments that `generate` refuses.
    """
    from matchbook.gemma import load_checkpoint
    from matchbook.gemma.chat import format_chat
    from matchbook.gemma.streaming import stream, text_pieces
    from matchbook.gemma.tokenizer import FILE, Tokenizer

    text = sys.stdin.read() if options.prompt == "-" else options.prompt
    began = time.perf_counter()
    try:
        tokenizer = Tokenizer.load(options.tokenizer or options.checkpoint / FILE)
        model = load_checkpoint(options.checkpoint, dtype=options.dtype)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from None
    _say(f"loaded {options.checkpoint.name} in {time.perf_counter() - began:.1f} s")
    if options.chat:
        prompt = format_chat(tokenizer, [{"role": "user", "content": text}])
    else:
        prompt = [tokenizer.bos, *tokenizer.encode(text)]
    pieces = stream(
        model,
        prompt,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        stop_tokens=tokenizer.stop_tokens,
        num_tokens=tokenizer.vocab_size,
    )
    counted, began = 0, time.perf_counter()

    def tokens() -> Iterator[list[int]]:
        nonlocal counted
        for new in pieces:
            counted += len(new)
            yield new

    try:
        for piece in text_pieces(tokens(), tokenizer.decode):
            print(piece, end="", flush=True)
    except ValueError as error:
        raise UsageError(str(error)) from None
    print(flush=True)
    _say(f"{counted} tokens in {time.perf_counter() - began:.1f} s, compiling included")
    return 0


def _say(line: str) -> None:
    print(f"matchbook: {line}", file=sys.stderr, flush=True)
