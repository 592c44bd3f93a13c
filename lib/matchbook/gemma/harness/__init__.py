"""Gemma 2 under lm-evaluation-harness, which Table 13 of the report is measured with here.

From Python, and from the command line, where this module stands for `lm_eval`:

    lm_eval.simple_evaluate(model=Gemma2Harness(model, tokenizer), tasks=["hellaswag"])

    python -m matchbook.gemma.harness run --model matchbook \\
        --model_args checkpoint=PATH,dtype=bfloat16,batch_size=8 --tasks hellaswag

    python -m matchbook.gemma.harness table_13 checkpoint=PATH,dtype=bfloat16,batch_size=8

Unusual: only `Gemma2Harness` needs the harness (extra `eval`) and brings it in when it is asked
for. What it is made of, `encoding`, `scoring`, `continuing`, `TABLE_13`, runs without.
"""

from typing import TYPE_CHECKING, Any

from matchbook.gemma.harness.benchmarks import TABLE_13, Benchmark, table_13

if TYPE_CHECKING:
    from matchbook.gemma.harness.adapter import Gemma2Harness

__all__ = ["TABLE_13", "Benchmark", "Gemma2Harness", "table_13"]


def __getattr__(name: str) -> Any:
    if name != "Gemma2Harness":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from matchbook.gemma.harness.adapter import Gemma2Harness

    return Gemma2Harness
