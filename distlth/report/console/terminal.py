"""Standard output: what is printed once, and what is shown again and again."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO, cast

from rich.console import Console, RenderableType
from rich.live import Live

from distlth.report.ending import PipeConsole

# The width of what goes into a file or a pipe, which has no terminal's width to be cut to.
FILE_WIDTH = 140


def output_console() -> Console:
    """Return a console that prints to standard output; BrokenPipeError where its reader has gone."""
    width = None if sys.stdout.isatty() else FILE_WIDTH
    return PipeConsole(highlight=False, width=width)


def run_console() -> Console:
    """Return a console for what a run shows while it trains: output that cannot be written ends no run."""
    out = Expendable(sys.stdout)
    return Console(file=cast(TextIO, out), highlight=False, width=None if out.isatty() else FILE_WIDTH)


class Expendable(io.TextIOBase):
    """A stream whose text may be lost: on a full disk, where the reader has gone, in a lost session.

    It writes to the file itself: a buffer that could not be written would be tried again, and fail, at the
    end of the process. Characters that the encoding does not have are replaced.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._file: int | None = None
        with suppress(OSError, ValueError, AttributeError):  # no file: a test, or a closed stream
            self._file = stream.fileno() if stream else None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Return whether somebody watches."""
        return self._file is not None and os.isatty(self._file)

    def fileno(self) -> int:
        """Return the number of the file; OSError where there is none."""
        if self._file is None:
            raise io.UnsupportedOperation("fileno")
        return self._file

    def write(self, text: str) -> int:
        """Write what can be written."""
        data = text.encode(self.encoding, "replace")
        with suppress(OSError, ValueError):
            if self._file is not None:
                while data:
                    data = data[os.write(self._file, data) :]
            elif self._stream is not None:
                self._stream.write(data.decode(self.encoding))
        return len(text)


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
