"""Rendezvous of the nodes of an allocation: one file in a folder that all of them see."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from distlth.files import read_small, replacing

POLL_SECONDS = 1.0

GUEST = "distlth-"


@dataclass(frozen=True)
class Call:
    """The head node's request to join Ray at the address `head`, with its token."""

    head: str
    token: str


class Rendezvous:
    """The head node writes calls, the worker nodes read them. Only the user may look into the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "call.json"

    @property
    def lanes(self) -> Path:
        """The folder for files that the ranks of a lane share while it stands."""
        return self.folder / "lanes"

    def open(self) -> None:
        """Make the folder."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Remove the folder: the worker nodes end."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # the folder of another allocation is in it
            self.folder.parent.rmdir()

    def call(self, call: Call) -> None:
        """Publish a call, in place of an earlier one."""
        with replacing(self._file) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(asdict(call)))

    def heard(self) -> Call | None:
        """Return the newest call, None when there is none."""
        try:
            return Call(**json.loads(read_small(self._file)))
        except (OSError, ValueError, TypeError):
            return None

    def wait(self, before: Call | None, seconds: float) -> Call | None:
        """Wait for a call other than `before`; return None after `seconds` without one."""
        deadline = time.monotonic() + seconds
        while (call := self.heard()) is None or call == before:
            if time.monotonic() > deadline:
                return None
            # Network file systems cache a folder's entries: listing it asks the server again.
            if self.folder.is_dir():
                os.listdir(self.folder)
            time.sleep(POLL_SECONDS)
        return call


@contextmanager
def guest_folder(folders: Path, name: str) -> Iterator[Path]:
    """Yield a new folder for the nodes of a Ray cluster that is there already; remove it after.

    Its name is unique, and also that of the run's namespace in Ray.
    """
    folder = folders / f"{GUEST}{name}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folders.rmdir()


def sweep_rendezvous(folders: Path) -> None:
    """Remove the folders of sessions that were killed while they held the run. The caller must hold it.

    The folder of an allocation that waits for the run has no call yet, and stays.
    """
    for folder in folders.glob("*"):
        if folder.name.startswith(GUEST) or Rendezvous(folder).heard() is not None:
            shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # it does not exist, or an allocation waits
        folders.rmdir()
