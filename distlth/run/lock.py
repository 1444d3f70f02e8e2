"""The lock that lets one process at a time hold a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distlth import lock
from distlth.errors import RunError
from distlth.lock import Lock as RunLock
from distlth.lock import held_by

__all__ = ["RunLock", "held_by", "hold"]


@contextmanager
def hold(path: Path, stale_seconds: float, patience_seconds: float = 0.0) -> Iterator[RunLock]:
    """Hold the run whose lock file is `path`; the seconds are as in `distlth.lock.hold`.

    An unattended start is given patience: it should not fail because the machine that held the run was lost
    a moment ago.

    Raises:
        RunError: another process holds the run, or the lock cannot be written.
    """
    purpose = lock.Purpose(path.parent, "this run is alive", RunError)
    with lock.hold(path, purpose, stale_seconds, patience_seconds) as held:
        yield held
