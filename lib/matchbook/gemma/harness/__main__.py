"""The harness's own command line with our model in it, and Table 13 as one command.

    python -m matchbook.gemma.harness run --model matchbook --model_args checkpoint=PATH ...
    python -m matchbook.gemma.harness table_13 checkpoint=PATH,dtype=bfloat16,batch_size=8

Unusual: all but `table_13` is handed over untouched.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

from matchbook.gemma.harness.benchmarks import TABLE_13, table_13


def main() -> None:
    """Runs `table_13`, or the harness."""
    from matchbook.gemma.harness.adapter import Gemma2Harness  # registers it

    if sys.argv[1:2] != ["table_13"]:
        importlib.import_module("lm_eval.__main__").cli_evaluate()
        return
    options = _options(sys.argv[2:])
    harness = Gemma2Harness.create_from_arg_string(options.model_args)
    scores = {}
    settings = {"run_code": options.run_code, "limit": options.limit}
    print(f"{'benchmark':12} {'metric':12} {'score':>6}", flush=True)
    for row, score in table_13(harness, benchmarks=options.benchmarks, **settings):
        print(f"{row.name:12} {row.metric:12} {score:6.1f}  {row.remark}", flush=True)
        scores[row.name] = score
        if options.output:
            options.output.write_text(json.dumps(scores, indent=2) + "\n")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m matchbook.gemma.harness table_13",
        description="Table 13 of the Gemma 2 report, row by row.",
    )
    parser.add_argument(
        "model_args",
        help="checkpoint=PATH, and more with commas: dtype, tokenizer, batch_size, max_length",
    )
    names = [row.name for row in TABLE_13]
    parser.add_argument(
        "--benchmarks", nargs="+", choices=names, metavar="ROW", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--limit", type=int, help="documents of each task, for a trial")
    parser.add_argument("--output", type=Path, help="a JSON file, written after each row")
    parser.add_argument(
        "--run_code",
        action="store_true",
        help="include HumanEval and MBPP, which execute what the model writes",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
