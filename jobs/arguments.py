"""Arguments that several commands share, and the run directory that a user means by them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from distlth.errors import UserError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_job_file(parser: argparse.ArgumentParser) -> None:
    """Add the job file, and overrides of its keys."""
    parser.add_argument("job", type=Path, metavar="JOB.yaml")
    add_overrides(parser, "train.epochs=3")


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """Add overrides of a job file's keys."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"such as {example}")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the run that a command is about."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory, or its name in runs")


def add_allow_change(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets a run continue although something it depends on has changed."""
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="KEY",
        help="continue although this changed: a key, a section, versions or data; may be repeated",
    )


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where runs are."""
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder of runs; default: runs"
    )


def find_run(given: Path, runs: Path = Path("runs")) -> Path:
    """Return the run directory that a user means by a path, or by a name alone; absolute.

    Raises:
        UserError: there is none.
    """
    for path in (given, runs / given):
        if path.is_dir():
            return path.absolute()
    raise UserError(f"{given}: no such run directory")


def run_as_given(given: Path, runs: Path) -> Path:
    """Return the run directory like `find_run`, but as it was given where that is a path: it is shown."""
    return given if given.is_dir() else find_run(given, runs)
