"""Where the nodes of an allocation meet: a folder that all of them see, with one file in it."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from distlth.files import replacing

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Call:
    """The head asks the other nodes to join the Ray at the address `head`, with its token."""

    head: str
    token: str


class Rendezvous:
    """The head calls, the nodes listen. Only the user may look into the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "call.json"

    @property
    def lanes(self) -> Path:
        """A folder for what the ranks of lanes share while they stand."""
        return self.folder / "lanes"

    def open(self) -> None:
        """Make the folder."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Remove the folder: the nodes go home."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another allocation's is in there
            self.folder.parent.rmdir()

    def call(self, call: Call) -> None:
        """Call the nodes; a later call takes the place of an earlier one."""
        with replacing(self._file) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(asdict(call)))

    def heard(self) -> Call | None:
        """The newest call, None when there was none so far."""
        try:
            return Call(**json.loads(self._file.read_text()))
        except (OSError, ValueError):
            return None

    def wait(self, before: Call | None, seconds: float) -> Call | None:
        """A call that is another than `before`; None when none comes in time."""
        deadline = time.monotonic() + seconds
        while (call := self.heard()) is None or call == before:
            if time.monotonic() > deadline:
                return None
            # Network file systems remember for a while what a folder held: listing it asks again.
            if self.folder.is_dir():
                os.listdir(self.folder)
            time.sleep(POLL_SECONDS)
        return call


def sweep_rendezvous(folders: Path) -> None:
    """Remove what allocations left that were killed while they held the run; only who holds it may call this.

    One that waits for the run has not called its nodes yet, and stays.
    """
    for folder in folders.glob("*"):
        if Rendezvous(folder).heard() is not None:
            shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # there is none, or somebody waits
        folders.rmdir()
