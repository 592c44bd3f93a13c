"""The command `matchbook`: one notebook, all of them, and what comes out of them.

Exit codes: 0 done, 1 a run failed, 2 asked for something that does not exist. Unusual: each command
imports what it needs when it is called, so that `--help` and a misspelt name answer at once.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from matchbook.lab.generating import add_arguments
from matchbook.lab.profiles import PROFILES
from matchbook.lab.session import SOURCES, find_root


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code. Errors of the user are one block on stderr."""
    parser = _parser()
    options = parser.parse_args(arguments)
    from matchbook.lab.parameters import UsageError

    try:
        return options.command(options)
    except UsageError as error:
        print(f"matchbook: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("matchbook: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `matchbook list | head`
        sys.stderr.close()
        return 0


def _run(options: argparse.Namespace) -> int:
    from matchbook.lab.notebook import find_notebook
    from matchbook.lab.parameters import UsageError
    from matchbook.lab.records import write_text
    from matchbook.lab.runner import RunFailed, run_notebook

    single = (options.arm, options.seed)
    if any(part is None for part in single) != all(part is None for part in single):
        raise UsageError("--arm and --seed belong together: they name a single run")
    if options.output and options.arm is None:
        raise UsageError("--output takes the record of a single run: give --arm and --seed too")
    root = find_root()
    notebook = find_notebook(options.notebook, root)
    given = notebook.parameters.parse(options.parameters)
    try:
        ran = run_notebook(
            notebook,
            options.profile,
            given,
            root=root,
            runs=_runs(options, root),
            replay=tuple(s for s in SOURCES if options.replay in (s, "all")),
            fresh=options.fresh,
            only=None if options.arm is None else single,
            timeout=options.timeout,
        )
    except RunFailed as failure:
        print(f"matchbook: {failure}", file=sys.stderr)
        return 1
    print(f"executed notebook: {ran.path}")
    if ran.record:
        print(f"record: {ran.record}")
        if options.output:
            write_text(options.output, ran.record.read_text(encoding="utf-8"))
    return 0


def _generate(options: argparse.Namespace) -> int:
    from matchbook.lab.generating import generate_text

    return generate_text(options)


def _list(options: argparse.Namespace) -> int:
    from matchbook.lab.planning import listing

    print(listing(find_root()))
    return 0


def _plan(options: argparse.Namespace) -> int:
    from matchbook.lab.parameters import UsageError
    from matchbook.lab.planning import plan, plan_json

    notebooks = _chosen(options.notebooks)
    if options.parameters and len(notebooks) != 1:
        raise UsageError("-p belongs to one notebook: name it")
    given = notebooks[0].parameters.parse(options.parameters) if options.parameters else {}
    print(plan_json(plan(notebooks, options.profile, given)))
    return 0


def _convert(options: argparse.Namespace) -> int:
    from matchbook.lab.notebook import convert, pair_agrees

    for notebook in _chosen(options.notebooks):
        if pair_agrees(notebook):
            print(f"{notebook.pair}: agrees")
        else:
            convert(notebook, notebook.pair)
            print(f"{notebook.pair}: written, without outputs")
    return 0


def _publish(options: argparse.Namespace) -> int:
    from matchbook.lab.notebook import find_notebook
    from matchbook.lab.publish import publish
    from matchbook.lab.runner import RunFailed

    root = find_root()
    notebook = find_notebook(options.notebook, root)
    try:
        records = publish(notebook, options.profile, root, _runs(options, root))
    except RunFailed as failure:
        print(f"matchbook: {failure}", file=sys.stderr)
        return 1
    print(f"published {len(records)} records of {notebook.name} at {options.profile}")
    return _refresh(root)


def _figures(options: argparse.Namespace) -> int:
    from matchbook.lab.publish import redraw_all

    root = find_root()
    chosen = _chosen(options.notebooks) if options.notebooks else []
    failed = redraw_all(root, chosen, options.profile)
    return 1 if failed else _refresh(root)


def _claims(options: argparse.Namespace) -> int:
    from matchbook.lab.claims import ledger, ledger_table

    root = find_root()
    profiles = [options.profile] if options.profile else ["laptop", "gpu"]
    rows = ledger(root, _runs(options, root) / "figures" if options.runs else None, profiles)
    if options.format == "json":
        plain = [{"id": r.claim.id, "verdicts": r.verdicts, "reasons": r.reasons} for r in rows]
        print(json.dumps(plain, indent=1))
    else:
        print(ledger_table(rows, "terminal" if options.format == "text" else options.format))
    return 0


def _gallery(options: argparse.Namespace) -> int:
    from matchbook.lab.gallery import write_gallery

    root = find_root()
    if not options.runs:
        return _refresh(root)
    print(write_gallery(root, _runs(options, root) / "figures"))
    return 0


def _refresh(root: Path) -> int:
    from matchbook.lab.gallery import write_gallery
    from matchbook.lab.readme import update_readme

    print(write_gallery(root))
    if update_readme(root):
        print(f"{root / 'README.md'}: tables written anew")
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from matchbook.lab.reproduce import reproduce

    return reproduce(find_root(), options.profile, keep=options.keep, split=options.split or None)


def _report(options: argparse.Namespace) -> int:
    from matchbook.lab.reproduce import report

    print(report(find_root(), options.profile))
    return 0


def _chosen(names: Sequence[str]) -> list:
    from matchbook.lab.notebook import all_notebooks, find_notebook

    root = find_root()
    return [find_notebook(name, root) for name in names] or all_notebooks(root)


def _runs(options: argparse.Namespace, root: Path) -> Path:
    return options.runs.resolve() if options.runs else root / "runs"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="matchbook",
        description="Runs and records the experiments of three papers on matching distributions.",
        epilog="matchbook COMMAND --help explains a command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text[0].lower() + text[1:], description=f"{text}.")
        made.set_defaults(command=function)
        return made

    run = command("run", _run, "Run one notebook, replaying what is recorded")
    run.add_argument(
        "notebook", metavar="NOTEBOOK", help="a name such as gemma2/01_anatomy, or a path"
    )
    _add_profile(run)
    _add_parameters(run)
    _add_runs(run)
    run.add_argument("--fresh", action="store_true", help="compute what is recorded, too")
    run.add_argument(
        "--replay",
        choices=(*SOURCES, "all"),
        default="all",
        help="which records may be replayed: own ones, published ones, or all (default)",
    )
    run.add_argument("--arm", metavar="A", help="with --seed: make this one run and stop")
    run.add_argument("--seed", metavar="S", type=int, help="with --arm: make this one run and stop")
    run.add_argument(
        "--output", metavar="FILE", type=Path, help="copy the single run's record here"
    )
    run.add_argument(
        "--timeout", metavar="SECONDS", type=int, help="stop the notebook after so many seconds"
    )

    add_arguments(command("generate", _generate, "Continue a prompt with a Gemma 2 checkpoint"))

    command("list", _list, "List the notebooks: what each asks, how long it takes, on what")

    plan = command("plan", _plan, "Print the runs of notebooks, arms x seeds, as JSON")
    _add_notebooks(plan)
    _add_profile(plan)
    _add_parameters(plan)

    convert = command("convert", _convert, "Write the .ipynb of notebooks whose pair disagrees")
    _add_notebooks(convert)

    publish = command("publish", _publish, "Move a notebook's own records to figures/, and redraw")
    publish.add_argument("notebook", metavar="NOTEBOOK", help="a name or a path")
    _add_profile(publish)
    _add_runs(publish)

    figures = command("figures", _figures, "Redraw what is published, from its records alone")
    _add_notebooks(figures)
    _add_profile(figures, default=None)

    claims = command("claims", _claims, "Print the ledger: every claim with its verdicts")
    _add_profile(claims, default=None)
    claims.add_argument("--runs", metavar="DIR", type=Path, help="let new numbers here go first")
    claims.add_argument("--format", choices=("text", "markdown", "json"), default="text")

    gallery = command("gallery", _gallery, "Write the page of all pictures, and README's tables")
    gallery.add_argument(
        "--runs", metavar="DIR", type=Path, help="write the page of new pictures here instead"
    )

    reproduce = command(
        "reproduce", _reproduce, "Compute everything afresh, and compare with what is published"
    )
    _add_profile(reproduce)
    reproduce.add_argument(
        "--keep", action="store_true", help="go on with what is there, though it was finished"
    )
    reproduce.add_argument(
        "--split",
        action="store_true",
        help="a job for each run, as on many cores, and not for each notebook",
    )
    report = command(
        "reproduce-report",
        _report,
        "Print the table of the last reproduction: now, published, paper",
    )
    _add_profile(report)
    return parser


def _add_profile(parser: argparse.ArgumentParser, default: str | None = "laptop") -> None:
    text = f"one of {', '.join(PROFILES)} (default: {default or 'all that are published'})"
    parser.add_argument("--profile", metavar="P", default=default, help=text)


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p",
        dest="parameters",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set a parameter of the notebook; may be given several times",
    )


def _add_notebooks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("notebooks", metavar="NOTEBOOK", nargs="*", help="all, if none is named")


def _add_runs(parser: argparse.ArgumentParser) -> None:
    text = "where new records, artifacts and pictures go (default: runs/)"
    parser.add_argument("--runs", metavar="DIR", type=Path, help=text)


if __name__ == "__main__":
    sys.exit(main())
