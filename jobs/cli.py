"""The `distlth` command: its parser, its commands and its exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from distlth import __version__
from distlth.report.ending import exit_code, file_errors_are_the_users
from jobs.commands import (
    bench,
    cancel,
    compare,
    data,
    export,
    import_,
    logs,
    plan,
    predict,
    recipes,
    report,
    resume,
    run,
    status,
    submit,
    tensorboard,
)

# In the order in which `distlth --help` lists them.
COMMANDS = (
    recipes,
    plan,
    run,
    submit,
    resume,
    cancel,
    status,
    logs,
    tensorboard,
    report,
    compare,
    export,
    import_,
    predict,
    data,
    bench,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done. 1: the compared runs differ. 2: an error that the user can fix. 75: stopped, run the same command
    again to continue. 130: interrupted, likewise. 141: whoever read the output has gone.
    """
    try:
        code = exit_code(lambda: _call(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at exit
        return 128 + signal.SIGPIPE


def _call(arguments: Sequence[str] | None) -> int:
    options = parse(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    with file_errors_are_the_users():
        return command(options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line. Overrides may stand anywhere after the job file."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # set by the shell that asks how a word goes on
        import argcomplete

        argcomplete.autocomplete(parser)
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
    parser.add_argument("--version", action="version", version=f"distlth {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
