"""Standard output: what is printed once, and what is shown again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live

# The width of what goes into a file or a pipe, which has no terminal's width to be cut to.
FILE_WIDTH = 140


def output_console() -> Console:
    """Return a console that prints to standard output."""
    width = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(highlight=False, width=width)


def show(renderable: RenderableType) -> None:
    """Print a table or a line to standard output, plain where that is not a terminal."""
    output_console().print(renderable)


def watch(draw: Callable[[], tuple[RenderableType, bool]], seconds: float) -> None:
    """Show what `draw` returns, again every `seconds`, as long as it says that there is more to come."""
    with Live(console=output_console(), auto_refresh=False) as live:
        while True:
            renderable, is_active = draw()
            live.update(renderable, refresh=True)
            if not is_active:
                return
            time.sleep(seconds)
