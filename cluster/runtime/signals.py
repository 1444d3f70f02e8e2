"""Signals that ask a run to end: a handler only sets a flag, the waiting loop acts on it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

GRACEFUL = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class StopSignals:
    """While entered, catches SIGTERM, SIGUSR2 and SIGINT; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in GRACEFUL}
            signal.pthread_sigmask(signal.SIG_UNBLOCK, GRACEFUL)  # `shielded` until here
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """What a run that was asked to stop ends with: 130 for Ctrl-C, else 75, "run it again"."""
        return 128 + signal.SIGINT if self.received is signal.SIGINT else os.EX_TEMPFAIL

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


@contextmanager
def shielded() -> Iterator[None]:
    """Processes started in here, and theirs, do not hear the signals that ask a run to stop.

    Batch systems send them to every process of a job at once. Ray's would end, before the ranks have left a
    checkpoint; who ends them means SIGKILL.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GRACEFUL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
