"""Table 13 of the report as tasks of lm-evaluation-harness: 17 benchmarks of base models.

Unusual: names and shots are the report's, prompts are the harness's, as the report prints none; so
a score near the printed one is agreement, and a distance alone is no contradiction. Where the two
are known to differ, `remark` says so.
"""

import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Benchmark(NamedTuple):
    """A row of Table 13."""

    name: str  # as printed, and so the metric
    metric: str
    task: str  # the harness's, or a group of them
    shots: int | None  # None where the task brings its own examples, or may have none
    score: str  # which of its results is the row's, a fraction: "metric,filter"
    runs_code: bool = False  # what the model writes is executed
    remark: str = ""


NORMALISED = "the likeliest choice per character, as where these shots are usual"

TABLE_13 = (
    Benchmark("MMLU", "5-shot", "mmlu", 5, "acc,none"),
    Benchmark("ARC-C", "25-shot", "arc_challenge", 25, "acc_norm,none", remark=NORMALISED),
    Benchmark("GSM8K", "5-shot", "gsm8k", 5, "exact_match,strict-match"),
    Benchmark(
        "AGIEval",
        "3-5-shot",
        "agieval_en",
        None,
        "acc,none",
        remark="the harness has no examples to show here: 0-shot",
    ),
    Benchmark("DROP", "3-shot F1", "drop", 3, "f1,none"),
    Benchmark("BBH", "3-shot CoT", "bbh_cot_fewshot", None, "exact_match,get-answer"),
    Benchmark("Winogrande", "5-shot", "winogrande", 5, "acc,none"),
    Benchmark("HellaSwag", "10-shot", "hellaswag", 10, "acc_norm,none", remark=NORMALISED),
    Benchmark(
        "MATH",
        "4-shot",
        "minerva_math",
        None,
        "exact_match,none",
        remark="needs what `pip install 'lm-eval[math]'` adds",
    ),
    Benchmark("ARC-e", "0-shot", "arc_easy", 0, "acc,none"),
    Benchmark("PIQA", "0-shot", "piqa", 0, "acc,none"),
    Benchmark("SIQA", "0-shot", "social_iqa", 0, "acc,none"),
    Benchmark("Boolq", "0-shot", "boolq", 0, "acc,none"),
    Benchmark("TriviaQA", "5-shot", "triviaqa", 5, "exact_match,remove_whitespace"),
    Benchmark("NQ", "5-shot", "nq_open", 5, "exact_match,remove_whitespace"),
    Benchmark("HumanEval", "pass@1", "humaneval", None, "pass@1,create_test", runs_code=True),
    Benchmark("MBPP", "3-shot", "mbpp", None, "pass_at_1,none", runs_code=True),
)


def table_13(
    harness: Any,
    *,
    benchmarks: Sequence[str] | None = None,
    run_code: bool = False,
    limit: int | None = None,
    task_manager: Any = None,
) -> Iterator[tuple[Benchmark, float]]:
    """Table 13 for a model, row by row as they are done, in percent.

    Needs the benchmarks' data, which the harness downloads, and for the 2B hours on one GPU.

    Args:
      harness: a `Gemma2Harness`, or any other model of the harness.
      benchmarks: the rows wanted, by name; by default all, less those that run code without leave.
      run_code: leave to execute what the model writes, on this machine and as this user.
      limit: documents of each task, for a trial.
      task_manager: of the harness, if it is to know further tasks.

    Raises:
      ImportError: lm-evaluation-harness is not installed.
      ValueError: a name that is none, or one that runs code without leave.
    """
    chosen = _chosen(benchmarks, run_code)
    try:
        lm_eval = importlib.import_module("lm_eval")
    except ModuleNotFoundError as error:
        raise missing(error) from error
    if run_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # the metric asks for it, besides the harness
    for row in chosen:
        results = lm_eval.simple_evaluate(
            model=harness,
            tasks=[row.task],
            num_fewshot=row.shots,
            limit=limit,
            log_samples=False,
            task_manager=task_manager,
            confirm_run_unsafe_code=row.runs_code,
        )
        yield row, 100 * results["results"][row.task][row.score]


def _chosen(benchmarks: Sequence[str] | None, run_code: bool) -> list[Benchmark]:
    by_name = {row.name: row for row in TABLE_13}
    if benchmarks is None:
        return [row for row in TABLE_13 if run_code or not row.runs_code]
    if unknown := [name for name in benchmarks if name not in by_name]:
        raise ValueError(f"benchmarks: expected some of {list(by_name)}, got {unknown} too")
    chosen = [by_name[name] for name in benchmarks]
    if runs := [row.name for row in chosen if row.runs_code and not run_code]:
        raise ValueError(f"benchmarks: {runs} execute what the model writes; to let them: run_code")
    return chosen


def missing(error: ModuleNotFoundError) -> ImportError:
    """What to say where a module of the harness is not there."""
    return ImportError(
        f"lm-evaluation-harness is needed here, and {error.name} is not installed: "
        "pip install 'matchbook[eval]', or uv sync --extra eval"
    )
