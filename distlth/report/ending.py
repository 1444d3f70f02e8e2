"""The end of a command: its error as one line on standard error, and its exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console
from rich.text import Text

from distlth.errors import RunInterrupted, UserError

USER_ERROR, INTERRUPTED = 2, 130


def exit_code(command: Callable[[], int]) -> int:
    """Call a command and return its exit code; print an error that it raises, and return the error's code.

    2: an error that the user can fix. 75: the same command resumes. 130: interrupted; the same command
    resumes. What the output's encoding does not have is replaced.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return command()
    except UserError as error:
        line = Text.assemble(("error: ", "bold red"), str(error))
        with suppress(OSError):
            Console(stderr=True, highlight=False).print(line, soft_wrap=True)
        return USER_ERROR
    except RunInterrupted as interruption:
        complain(str(interruption))
        return interruption.exit_code
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from here")
        return INTERRUPTED


def complain(text: str) -> None:
    """Print one line on standard error, if that is possible."""
    with suppress(OSError, ValueError):
        print(" ".join(text.split()), file=sys.stderr, flush=True)
