"""How a command ends: an exit code, and one line for what a user can mend or should know."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from distlth.errors import RunInterrupted, UserError

USER_ERROR, INTERRUPTED = 2, 130


def exit_code(command: Callable[[], int]) -> int:
    """Call a command; returns its exit code, or that of the error it ended with, which is printed.

    2: the user can mend it. 75: the same command goes on. 130: interrupted; it goes on, too.
    """
    try:
        return command()
    except UserError as error:
        line = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True, highlight=False).print(line, soft_wrap=True)
        return USER_ERROR
    except RunInterrupted as interruption:
        print(" ".join(str(interruption).split()), file=sys.stderr)
        return interruption.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
