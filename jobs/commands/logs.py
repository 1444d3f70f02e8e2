"""`distlth logs`: what a submitted run printed, and what happened to it."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cluster.slurm.standing import find
from distlth.errors import UserError
from distlth.files import LOG_BYTES, regular
from distlth.run.paths import RunPaths
from distlth.run.submission import Submission, load_submission
from jobs.arguments import Commands, add_run, add_runs, run_as_given
from jobs.standings import Standings, standing_line

FOLLOW_SECONDS = 1.0

# What submitit logs first in each start of a task.
START = re.compile(rb"^submitit INFO .* - Starting with ", re.M)


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "logs", help="what a submitted run printed", description="What a run printed since its last start."
    )
    add_run(parser)
    add_runs(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="continue until the run ends")
    parser.add_argument("--rank", type=int, default=0, metavar="R", help="which node's task; 0 has the head")
    parser.set_defaults(command=_logs)


def _logs(options: argparse.Namespace) -> int:
    run = RunPaths(run_as_given(options.run, options.runs))
    submission = load_submission(run)
    tail = _tail(submission, options.rank)
    printed, happened = tail.since_last_start(), _Events(run)
    newest = happened.since_last_start()
    if not options.follow and not printed and not newest:
        line = standing_line(submission, find(submission))
        raise UserError(f"{options.run}: nothing was printed yet{f'; {line}' if line else ''}")
    for path, text in ((tail.path, printed), (run.log, newest)):
        _write(b"==> %s <==\n%s" % (os.fsencode(path), text) if path and text else b"")
    for _ in _until_ended(run, submission) if options.follow else ():
        _write(tail.more() + happened.more())
    return 0


def _tail(submission: Submission | None, rank: int) -> _Tail:
    if submission is None:
        return _Tail(None)
    if not 0 <= rank < submission.nodes:
        raise UserError(f"--rank {rank}: there is a task a node, 0 to {submission.nodes - 1}")
    return _Tail(submission.paths.log(submission.job_id, rank))


def _until_ended(run: RunPaths, submission: Submission | None) -> Iterator[None]:
    """Yield every second while the run waits or trains, and once more after."""
    from distlth.facts.status import read_status

    standings = Standings()
    while True:
        standing = standings.of(submission)
        is_active = standing.is_active if standing else read_status(run).state == "running"
        yield
        if not is_active:
            return
        time.sleep(FOLLOW_SECONDS)


class _Tail:
    """The output of a task, read as it grows; nothing of a run that was not submitted."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._offset = 0

    def since_last_start(self) -> bytes:
        """Return what the newest start of the task printed so far, everything where no start is marked."""
        text = self.more()
        starts = [match.start() for match in START.finditer(text)]
        return text[starts[-1] :] if starts else text

    def more(self) -> bytes:
        """Return what was printed since the last call."""
        if self.path is None:
            return b""
        try:
            with open(self.path, "rb", opener=regular) as file:
                file.seek(self._offset)
                text = file.read(LOG_BYTES)
        except FileNotFoundError:
            return b""
        self._offset += len(text)
        return text


class _Events:
    """The events of a run as lines for people, read as they come."""

    def __init__(self, run: RunPaths) -> None:
        self._log = run.log
        self._offset = 0

    def since_last_start(self) -> bytes:
        """Return what happened since the newest start of the run, everything where no start is recorded."""
        events = self._read()
        starts = [index for index, event in enumerate(events) if event["event"] == "run-start"]
        return _lines(events[starts[-1] if starts else 0 :])

    def more(self) -> bytes:
        """Return what happened since the last call."""
        return _lines(self._read())

    def _read(self) -> Sequence[Mapping[str, object]]:
        from distlth.run.events import read_events

        events, self._offset = read_events(self._log, self._offset)
        return events


def _lines(events: Sequence[Mapping[str, object]]) -> bytes:
    from distlth.report.console import describe_line

    return "".join(f"{describe_line(event)}\n" for event in events).encode()


def _write(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.flush()
