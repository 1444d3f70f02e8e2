"""A run is held by one process at a time: a lock file that lives as long as its heartbeat.

Made for shared file systems: it needs only exclusive creation and rename, and it compares times of the file
system with each other, never with the clock of a machine.
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
from distlth.files import write_text
from distlth.process import identity, is_alive, numbering

HEARTBEAT_SECONDS = 5.0

# Taking over takes milliseconds: a guard as old as this was left by a process that died in between.
GUARD_SECONDS = 30.0


@dataclass(frozen=True)
class Holder:
    """Who holds a run. `process` is a pid and its start, which mean something where `pids` is the same."""

    host: str
    pids: str
    process: str
    since: float
    token: str

    @classmethod
    def me(cls) -> Holder:
        """This process, with a token that is new with each call."""
        return cls(socket.gethostname(), numbering(), identity(), time.time(), secrets.token_hex(8))

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """The holder that a lock file names; None of one that is not there, or just being written."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.process.split()[0]} on {self.host}"

    def to_json(self) -> str:
        """The lock file's text."""
        return json.dumps(asdict(self)) + "\n"

    @property
    def is_dead(self) -> bool:
        """Whether it is known from here to have ended."""
        return self.pids == numbering() and not is_alive(self.process)


class RunLock:
    """A run that this process holds, and keeps holding by a heartbeat."""

    def __init__(self, path: Path, me: Holder, taken_from: str | None) -> None:
        self._path, self._me = path, me
        self.taken_from = taken_from
        """Whose stale lock was taken over, and why; None when the run was free."""
        self.is_lost = False
        """Whether another process has taken the run over: this one was silent for too long."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let the run go, unless it is another's by now."""
        self._ended.set()
        self._thread.join()
        if self._is_mine():
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a file system that is away for a moment
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

    A lock whose process is known to be dead, or that had no heartbeat for `stale_seconds`, is taken over.
    One that is alive is waited for, `patience_seconds` long: what nobody watches should not give up because
    the machine that held the run before was lost a moment ago.

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
    """Who holds the run whose lock file is `path`, as far as is known; None where it could be taken."""
    return None if _why_stale(path, stale_seconds) else Holder.read(path)


def _take(path: Path, me: Holder, stale_seconds: float) -> str | None:
    """Take a run that is free, or whose lock is stale; returns whose it was and why."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return None if _create(path, me) else _take_over(path, me, stale_seconds)
    except OSError as error:
        raise RunError(f"{path}: the run's lock cannot be written ({error.strerror})") from None


def _create(path: Path, holder: Holder) -> bool:
    """Create the file with its content; False when it exists."""
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
    """Replace a stale lock, one process at a time; returns whose it was and why it was stale.

    The lock never disappears in between, so that nobody can slip in.
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
    """Seconds since a file's last heartbeat, by the clock of its file system; 0 when it is not there."""
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
