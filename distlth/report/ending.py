"""The end of a command: its error as one line on standard error, and its exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.text import Text

from distlth.errors import RunInterrupted, UserError

USER_ERROR, INTERRUPTED = 2, 130


class PipeConsole(Console):
    """A console that raises BrokenPipeError where its reader has gone.

    rich's own ends the process with 1 then, which `distlth compare` has another meaning for.
    """

    def on_broken_pipe(self) -> None:
        """Raise the error that rich calls this for."""
        raise


def exit_code(command: Callable[[], int]) -> int:
    """Call a command and return its exit code; print an error that it raises, and return the error's code.

    2: an error that the user can fix. 75: the same command resumes. 130: interrupted; it resumes, too. What
    the output's encoding does not have is replaced.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # stays open
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return command()
    except UserError as error:
        _print_error(str(error))
        return USER_ERROR
    except RunInterrupted as interruption:
        complain(str(interruption))
        return interruption.exit_code
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from here")
        return INTERRUPTED


@contextmanager
def file_errors_are_the_users() -> Iterator[None]:
    """Raise an error of the file system as a UserError, of one line.

    For a command that somebody looks at. A task of a batch system should rather be queued again.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) or (line := _about_a_file(error)) is None:
            raise
        raise UserError(line) from error


def _about_a_file(error: OSError) -> str | None:
    """Return an error of the file system as one line; None of an internal error, which names no file."""
    if isinstance(error.filename, str | bytes):
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of a write, which knows no name
        return f"cannot write: {error.strerror}"
    return None


def _print_error(message: str) -> None:
    """Print one line, with what the terminal cannot show replaced: names need not be UTF-8."""
    encoding = sys.stderr.encoding or "ascii"
    shown = message.encode(encoding, "backslashreplace").decode(encoding)
    line = Text.assemble(("error: ", "bold red"), " ".join(shown.splitlines()))
    with suppress(OSError):
        PipeConsole(stderr=True, highlight=False).print(line, soft_wrap=True)


def complain(text: str) -> None:
    """Print one line on standard error, if that is possible."""
    with suppress(OSError, ValueError):
        print(" ".join(text.split()), file=sys.stderr, flush=True)
