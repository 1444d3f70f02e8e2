"""A lock that lets one process at a time hold something: a file that is valid while its heartbeat lasts.

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

from distlth.errors import UserError
from distlth.files import exists, file_system_time, read_small, write_text
from distlth.process import identity, is_alive, numbering

HEARTBEAT_SECONDS = 5.0

# A takeover takes milliseconds: an older guard was left by a process that died during one.
GUARD_SECONDS = 30.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

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
            return cls(**json.loads(read_small(path))) if exists(path) else None
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


@dataclass(frozen=True)
class Purpose:
    """What a lock is for, in the words of its errors: `place` is `busy` while another process holds it."""

    place: Path
    busy: str
    error: type[UserError]


class Lock:
    """A lock that this process holds, with a heartbeat in the background."""

    def __init__(self, path: Path, me: Holder, taken_from: str | None) -> None:
        self._path, self._me = path, me
        self.taken_from = taken_from
        """The former holder of a stale lock and why it was stale; None if it was free."""
        self.is_lost = False
        """Whether another process has taken the lock over, because this one's heartbeat stopped."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the lock, unless another process has taken it over."""
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
def hold(path: Path, purpose: Purpose, stale_seconds: float, patience_seconds: float = 0.0) -> Iterator[Lock]:
    """Hold the lock file `path`.

    A lock is taken over if its process is known to be dead or its heartbeat is `stale_seconds` old. A valid
    lock is waited for up to `patience_seconds`.

    Raises:
        UserError (that of `purpose`): another process holds the lock, or it cannot be written.
    """
    me = Holder.me()
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            taken_from = _take(path, purpose, me, stale_seconds)
            break
        except purpose.error:
            if time.monotonic() >= deadline:
                raise
            time.sleep(HEARTBEAT_SECONDS)
    lock = Lock(path, me, taken_from)
    try:
        yield lock
    finally:
        lock.release()


def held_by(path: Path, stale_seconds: float) -> Holder | None:
    """Return the holder of the lock file `path`; None if it is free or stale."""
    return None if _why_stale(path, stale_seconds) else Holder.read(path)


def _take(path: Path, purpose: Purpose, me: Holder, stale_seconds: float) -> str | None:
    """Take a lock that is free or stale; return the former holder and why it was stale."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return None if _create(path, me) else _take_over(path, purpose, me, stale_seconds)
    except OSError as error:
        raise purpose.error(f"{path}: the lock cannot be written ({error.strerror})") from None


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


def _take_over(path: Path, purpose: Purpose, me: Holder, stale_seconds: float) -> str | None:
    """Replace a stale lock, one process at a time; return its holder and why it was stale.

    The lock file exists throughout, so no other process can create it meanwhile.
    """
    guard = path.with_name(f"{path.name}.taking-over")
    if not _create(guard, me):
        if _age(guard) > GUARD_SECONDS:
            guard.unlink(missing_ok=True)
        raise purpose.error(f"{purpose.place}: another process is just taking it over; try again")
    try:
        stale = _why_stale(path, stale_seconds)
        if not exists(path) and _create(path, me):
            return None
        if stale is None:
            holder = Holder.read(path)
            who = f"{holder}, since {_clock(holder.since)}" if holder else "another process"
            raise purpose.error(f"{purpose.place}: {purpose.busy}, held by {who}; end that one first")
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
    try:
        return max(0.0, file_system_time(path.parent) - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
