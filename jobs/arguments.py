"""Arguments that several commands share, and the run directory that a user means by them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from distlth.errors import UserError
from distlth.options import user_path

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


RECIPES = Path(__file__).parent / "recipes"


def job_given(given: str) -> Path:
    """Return the job file that is given: a path, or the name of a recipe where no file has it."""
    path, recipe = path_given(given), RECIPES / f"{given}.yaml"
    is_name = Path(given).name == given and not path.exists()
    return recipe if is_name and recipe.is_file() else path


def path_given(given: str) -> Path:
    """Return a path that is given on the command line, `~` expanded as in job files: a type for argparse.

    Raises:
        UserError: it can name no file.
    """
    try:
        return user_path(given)
    except ValueError as error:
        raise UserError(str(error)) from None


def add_job_file(parser: argparse.ArgumentParser) -> None:
    """Add the job file, and overrides of its keys."""
    parser.add_argument("job", type=job_given, metavar="JOB.yaml", help="a job file, or a recipe's name")
    add_overrides(parser, "train.epochs=3")


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """Add overrides of a job file's keys."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"such as {example}")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the run that a command is about."""
    parser.add_argument("run", type=path_given, metavar="RUN", help="a run directory, or its name in runs")


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
        "--runs",
        type=path_given,
        default=Path("runs"),
        metavar="DIR",
        help="folder of runs; default: runs",
    )


def find_run(given: Path, runs: Path = Path("runs")) -> Path:
    """Return the run directory that a user means by a path, or by a name alone; absolute.

    Raises:
        UserError: there is none.
    """
    for folder in (given, runs / given):
        if folder.is_dir():
            return folder.absolute()
    raise UserError(f"{given}: no such run directory")


def run_as_given(given: Path, runs: Path) -> Path:
    """Return the run directory like `find_run`, but as it was given where that is a path: it is shown."""
    return given if given.is_dir() else find_run(given, runs)
