"""The `distlth` command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from distlth.report.ending import exit_code
from jobs import submit, watch
from jobs.request import add_allow_change

DIFFERENT = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    0: done. 1: the compared runs differ. 2: the user can mend it. 75: the same command goes on.
    130: interrupted; it goes on, too. 141: whoever read the output has gone.
    """
    options = parse(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        code = exit_code(lambda: command(options))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at its exit
        return 128 + signal.SIGPIPE


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line. Overrides may stand anywhere after the job file."""
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    if any(word.startswith("-") for word in more) or (more and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        options.overrides += more
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distlth", description="Find structurally sparse winning lottery tickets on a cluster."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    submit.add(commands)
    watch.add(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_data(commands)
    _add_bench(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run", help="run a job, or go on with it", description="Run a job, or go on with an interrupted one."
    )
    parser.add_argument("job", type=Path, metavar="JOB.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.epochs=3")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and start nothing")
    add_allow_change(parser)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from distlth.config.read import load_config

    config = load_config(options.job, options.overrides)
    if options.dry_run:
        from jobs.dry_run import show_plan

        show_plan(config)
        return 0

    from cluster.runtime.service import run
    from distlth.report.console import RunView

    with RunView() as view:
        view.summary(run(config, view.show, options.allow_change))
    return 0


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report", help="table and pictures of a run", description="Write a run's table and pictures again."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    from distlth.report.summary import write_report
    from distlth.run.paths import RunPaths

    for path in write_report(RunPaths(options.run)):
        print(path)
    return 0


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="where two runs first differ",
        description="Say where two runs first differ. Exit code: 0 identical in what both have, 1 different.",
    )
    parser.add_argument("first", type=Path, metavar="RUN_A", help="a run directory, finished or not")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="another one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_compare)


def _compare(options: argparse.Namespace) -> int:
    from distlth.facts.compare import compare_runs
    from distlth.report.console import comparison_view, show
    from distlth.run.paths import RunPaths

    comparison = compare_runs(RunPaths(options.first), RunPaths(options.second))
    if options.json:
        print(comparison.to_json())
    else:
        show(comparison_view(comparison))
    return 0 if comparison.first_difference is None else DIFFERENT


def _add_data(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("data", help="build or check a data set")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser(
        "build", help="pack a folder of images", description="Pack a folder of images."
    )
    build.add_argument("source", type=Path, metavar="SOURCE", help="an ImageFolder or ImageNet tree")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--max-resolution", type=int, metavar="PIXELS", help="shrink longer sides to this")
    build.add_argument("--jpeg-quality", type=int, default=90, metavar="1..100")
    build.add_argument("--write-mode", choices=("smart", "jpg", "raw"), default="smart")
    build.add_argument("--workers", type=int, default=0, metavar="N", help="processes; default: one a core")
    build.add_argument(
        "--val-fraction", type=float, default=0.1, metavar="F", help="where there is no val split"
    )
    build.add_argument("--seed", type=int, default=0, help="of a split made here")
    build.add_argument("--skip-broken", action="store_true", help="leave out images that do not decode")
    build.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    build.set_defaults(command=_data_build)
    check = actions.add_parser(
        "check", help="verify a built data set", description="Verify a built data set."
    )
    check.add_argument("path", type=Path, metavar="DIR")
    check.set_defaults(command=_data_check)


def _data_build(options: argparse.Namespace) -> int:
    from distlth.data.pack.build import BuildOptions, build, progress_bar

    chosen = BuildOptions(
        max_resolution=options.max_resolution,
        jpeg_quality=options.jpeg_quality,
        write_mode=options.write_mode,
        workers=options.workers,
        skip_broken=options.skip_broken,
        val_fraction=options.val_fraction,
        seed=options.seed,
    )
    with progress_bar() as progress:
        dataset = build(options.source, options.out, chosen, overwrite=options.overwrite, progress=progress)
    train, val = dataset.split("train"), dataset.split("val")
    print(f"{dataset.path}: {train.count:,} + {val.count:,} images of {dataset.num_classes:,} classes")
    for path, reason in dataset.skipped:
        print(f"left out {path}: {reason}")
    return 0


def _data_check(options: argparse.Namespace) -> int:
    from distlth.data.pack.build import progress_bar
    from distlth.data.pack.check import check

    with progress_bar() as progress:
        report = check(options.path, progress=progress)
    print(
        f"{options.path}: {report.num_samples:,} images, {report.num_bytes:,} bytes: all as they were built"
    )
    return 0


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("bench", help="measure", description="Measure, as ratios in one run.")
    choices = ("broadcast", "checkpoint", "coordinator", "disk", "loader", "regroup", "step")
    parser.add_argument("name", choices=choices)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--quick", action="store_true", help="a small one: shows that it works, figures mean little"
    )
    parser.set_defaults(command=_bench)


def _bench(options: argparse.Namespace) -> int:
    from jobs.benchmarks import show_bench

    show_bench(options.name, quick=options.quick, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
