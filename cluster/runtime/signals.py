"""Signals that ask a run to stop: the handler only sets a flag, the waiting loop acts on it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

GRACEFUL = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """While entered, catches SIGTERM, SIGUSR2, SIGINT and SIGHUP; a second SIGINT interrupts at once.

    A SIGHUP that is ignored, as `nohup` has it, stays ignored.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            numbers = [number for number in GRACEFUL if not _is_ignored_hangup(number)]
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
            signal.pthread_sigmask(signal.SIG_UNBLOCK, GRACEFUL)  # blocked by `shielded` so far
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """The exit code of a run that was stopped: 130 after Ctrl-C, else 75, "run it again"."""
        return 128 + signal.SIGINT if self.received is signal.SIGINT else os.EX_TEMPFAIL

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


def _is_ignored_hangup(number: signal.Signals) -> bool:
    return number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


@contextmanager
def shielded() -> Iterator[None]:
    """Block the signals that ask a run to stop, for processes started within and their children.

    Batch systems send these signals to all processes of a SLURM job at once. Ray's processes would end
    before the ranks have written a checkpoint; they are ended by SIGKILL.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GRACEFUL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
