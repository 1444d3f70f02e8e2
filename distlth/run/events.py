"""The event log of a run: one JSON line per event, appended by every process of the run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distlth.files import LOG_BYTES, append_json, exists, regular

Event = Mapping[str, Any]


class EventLog:
    """Appends events to a log file; what a full disk does not take is kept and tried again.

    Several processes may append to the same file. Within one process it is safe to call from any thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unwritten: list[Event] = []
        self._is_refused = False
        self._lock = threading.Lock()

    @property
    def unwritten(self) -> tuple[Event, ...]:
        """The events that the file did not take, and those after them, oldest first."""
        return tuple(self._unwritten) if self._is_refused else ()

    def note(self, event: str, **details: Any) -> None:
        """Append an event with the current time, after those that could not be written before."""
        self._unwritten.append({"time": time.time(), "event": event, **details})
        with suppress(OSError):
            self.flush()

    def flush(self) -> None:
        """Write the events that are not in the file yet; raise OSError where they cannot be written."""
        with self._lock:
            try:
                while self._unwritten:
                    append_json(self._path, self._unwritten[0])
                    del self._unwritten[0]
            except OSError:
                self._is_refused = True
                raise
            self._is_refused = False


def read_events(log: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Return the events of a log from byte `offset` on, and the offset to continue reading at.

    Each has a `time` (seconds since the epoch) and an `event` (its kind). Lines that are half-written or no
    events are left out. A log that does not exist has no events.
    """
    if not exists(log):
        return [], offset
    with open(log, "rb", opener=regular) as file:
        file.seek(offset)
        text = file.read(LOG_BYTES)
    complete = text[: text.rfind(b"\n") + 1]
    events = [event for line in complete.splitlines() if (event := _parse(line))]
    return events, offset + len(complete)


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    return event if isinstance(event.get("time"), int | float) else None
