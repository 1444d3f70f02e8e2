"""The handle of `distlth run` on the process that holds Ray: start it, write to it, read from it, end it."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from cluster.runtime.error_text import last_line
from cluster.runtime.messages import Ending, Reply, Request, parse_reply
from cluster.runtime.signals import shielded


class HeadProcess:
    """The process of `cluster.runtime.head`, in a POSIX session of its own.

    Signals that a terminal or a batch system sends to the run's processes do not reach that session: Ray's
    processes would end at once, before the ranks have written a checkpoint.
    """

    def __init__(self, folder: Path, address: str, environment: Mapping[str, str]) -> None:
        """Start it in an `environment`, with its files in `folder`.

        A Ray that it starts listens on this machine's `address`.
        """
        self._errors = folder / "head.err"
        with open(self._errors, "wb") as errors, shielded():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cluster.runtime.head", str(folder), address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=dict(environment),
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> HeadProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill -9 it and all of its POSIX session, in which Ray's processes stay whatever became of it."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == self._process.pid:
                    process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # a request that it did not live to read
                pipe.close()

    def send(self, request: Request) -> None:
        """Write a request; `receive` reports a process that is dead."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{request.to_json()}\n")
            self._process.stdin.flush()

    def receive(self, seconds: float) -> Reply | None:
        """Return its next reply, None when there is none in `seconds`. An `Ending` is its last.

        The ending of a process that died says so.
        """
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        return parse_reply(line) if line.endswith("\n") else self._death()

    def _listen(self) -> None:
        """Queue the lines that it writes, and an empty one at the end."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _death(self) -> Ending:
        code = self._process.wait()
        last = last_line(self._errors.read_text(errors="replace"))
        return Ending(lost=f"the process that holds Ray died (exit code {code}) {last}".strip())
