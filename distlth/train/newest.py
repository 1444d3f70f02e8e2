"""Writing the newest of many values in the background, so that training never waits for a file system."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

# How long the end of a job may wait for the last value.
CLOSE_SECONDS = 5.0

T = TypeVar("T")


class NewestWriter(Generic[T]):
    """Calls `write` in a thread, with the newest value there is; an OSError costs only that value."""

    def __init__(self, write: Callable[[T], None]) -> None:
        self._write = write
        self._values: list[T] = []
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def put(self, value: T) -> None:
        """Have a value written, in place of those that were not yet."""
        with self._changed:
            self._values[:] = [value]
            self._changed.notify()
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """Return when the last value is written, or a file system does not answer."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._values or self._is_closed)
                if not self._values:
                    return
                value = self._values.pop()
            with suppress(OSError):
                self._write(value)
