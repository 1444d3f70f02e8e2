"""The lock that lets one process at a time hold a run: a file that is valid while its heartbeat lasts.

It works on shared file systems: it needs only exclusive creation and rename, and compares file times with
each other, never with a machine's clock.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from distlth.errors import RunError
from distlth.files import read_small, write_text
from distlth.process import identity, is_alive, numbering

HEARTBEAT_SECONDS = 5.0

# A takeover takes milliseconds: an older guard was left by a process that died during one.
GUARD_SECONDS = 30.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a run.

    `process` is its `process.identity`, valid where `process.numbering` is `pids`. `since` is seconds since
    the epoch, `token` is unique to one holding.
    """

    host: str
    pids: str
    process: str
    since: float
    token: str

    @classmethod
    def me(cls) -> Holder:
        """Return this process as a holder, with a new token."""
        return cls(socket.gethostname(), numbering(), identity(), time.time(), secrets.token_hex(8))

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Return the holder in a lock file; None if there is none, or it is not fully written yet."""
        try:
            return cls(**json.loads(read_small(path)))
        except (OSError, ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.process.split()[0]} on {self.host}"

    def to_json(self) -> str:
        """Return the text of the lock file."""
        return json.dumps(asdict(self)) + "\n"

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended, as far as this machine can tell."""
        return self.pids == numbering() and not is_alive(self.process)


class RunLock:
    """A run that this process holds, with a heartbeat in the background."""

    def __init__(self, path: Path, me: Holder, taken_from: str | None) -> None:
        self._path, self._me = path, me
        self.taken_from = taken_from
        """The former holder of a stale lock and why it was stale; None if the run was free."""
        self.is_lost = False
        """Whether another process has taken the run over, because this one's heartbeat stopped."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the run, unless another process has taken it over."""
        self._ended.set()
        self._thread.join()
        if self._is_mine():
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the file system may be unavailable for a moment
                if not self._is_mine():
                    self.is_lost = True
                    return
                os.utime(self._path)

    def _is_mine(self) -> bool:
        holder = Holder.read(self._path)
        return holder is not None and holder.token == self._me.token


@contextmanager
def hold(path: Path, stale_seconds: float, patience_seconds: float = 0.0) -> Iterator[RunLock]:
    """Hold the run whose lock file is `path`.

    A lock is taken over if its process is known to be dead or its heartbeat is `stale_seconds` old. A valid
    lock is waited for up to `patience_seconds`: an unattended start should not fail because the machine that
    held the run was lost a moment ago.

    Raises:
        RunError: another process holds the run, or the lock cannot be written.
    """
    me = Holder.me()
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            taken_from = _take(path, me, stale_seconds)
            break
        except RunError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(HEARTBEAT_SECONDS)
    lock = RunLock(path, me, taken_from)
    try:
        yield lock
    finally:
        lock.release()


def held_by(path: Path, stale_seconds: float) -> Holder | None:
    """Return the holder of the run whose lock file is `path`; None if the run is free or its lock stale."""
    return None if _why_stale(path, stale_seconds) else Holder.read(path)


def _take(path: Path, me: Holder, stale_seconds: float) -> str | None:
    """Take a run that is free or whose lock is stale; return the former holder and why it was stale."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return None if _create(path, me) else _take_over(path, me, stale_seconds)
    except OSError as error:
        raise RunError(f"{path}: the run's lock cannot be written ({error.strerror})") from None


def _create(path: Path, holder: Holder) -> bool:
    """Create a lock file; return False if it exists."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, holder.to_json().encode())
        os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return True


def _take_over(path: Path, me: Holder, stale_seconds: float) -> str | None:
    """Replace a stale lock, one process at a time; return its holder and why it was stale.

    The lock file exists throughout, so no other process can create it meanwhile.
    """
    guard = path.with_name(f"{path.name}.taking-over")
    if not _create(guard, me):
        if _age(guard) > GUARD_SECONDS:
            guard.unlink(missing_ok=True)
        raise RunError(f"{path.parent}: another process is just taking this run over; try again")
    try:
        stale = _why_stale(path, stale_seconds)
        if not path.exists() and _create(path, me):
            return None
        if stale is None:
            holder = Holder.read(path)
            who = f"{holder}, since {_clock(holder.since)}" if holder else "another process"
            raise RunError(f"{path.parent}: this run is alive, held by {who}; end that one first")
        write_text(path, me.to_json())
        return stale
    finally:
        guard.unlink(missing_ok=True)


def _why_stale(path: Path, stale_seconds: float) -> str | None:
    holder, age = Holder.read(path), _age(path)
    who = str(holder) if holder else "a process that left no name"
    if holder and holder.is_dead:
        return f"{who}, which has ended"
    if age > stale_seconds:
        return f"{who}, silent for {age:.0f} s"
    return None


def _age(path: Path) -> float:
    """Return the seconds since a file's last heartbeat by its file system's clock; 0 if it is missing."""
    now = path.with_name(f".{path.name}.{secrets.token_hex(4)}.now")
    try:
        now.touch()
        return max(0.0, now.stat().st_mtime - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0
    finally:
        now.unlink(missing_ok=True)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
