"""`distlth status`, `logs` and `tensorboard`: runs seen from a login node, by their files and by squeue."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cluster.slurm.squeue import find, read_queue, standing
from distlth.errors import UserError
from distlth.run.paths import RunPaths, runs_in
from distlth.run.submission import Standing, Submission, load_submission
from jobs.request import find_run

QUEUE_SECONDS = 10.0
FOLLOW_SECONDS = 1.0

# What submitit logs first in each start of a task.
START = re.compile(rb"^submitit INFO .* - Starting with ", re.M)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    status = commands.add_parser(
        "status", help="where runs stand", description="Where a run stands, or all runs of a folder."
    )
    status.add_argument(
        "run", type=Path, nargs="?", metavar="RUN", help="a run directory, or its name; default: all runs"
    )
    _add_runs(status)
    status.add_argument("--watch", action="store_true", help="show it again and again until nothing runs")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(command=_status)

    logs = commands.add_parser(
        "logs", help="what a submitted run printed", description="What a run printed since its last start."
    )
    logs.add_argument("run", type=Path, metavar="RUN", help="a run directory, or its name in runs")
    _add_runs(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    logs.add_argument("--rank", type=int, default=0, metavar="R", help="which node's task; 0 has the head")
    logs.set_defaults(command=_logs)

    board = commands.add_parser(
        "tensorboard",
        help="show the curves of runs",
        description="Start TensorBoard for some runs, or all of a folder, and say how to reach it.",
    )
    board.add_argument("runs_shown", type=Path, nargs="*", metavar="RUN", help="default: all runs")
    _add_runs(board)
    board.add_argument("--port", type=int, metavar="PORT", help="default: 6006, or the next free one")
    board.add_argument("--host", default="localhost", help="where it listens; default: this machine alone")
    board.set_defaults(command=_tensorboard)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder of runs; default: runs"
    )


# -- status -------------------------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> int:
    return _status_of_all(options) if options.run is None else _status_of_one(options)


def _status_of_one(options: argparse.Namespace) -> int:
    from distlth.facts.status import read_status
    from distlth.report.console import print_status, watch_status

    run = RunPaths(_given(options))
    submission = load_submission(run)
    queue = _Queue()

    def ask() -> tuple[str | None, bool]:
        standing = queue.standing(submission)
        return _line(submission, standing), bool(standing and standing.is_active)

    if options.json:
        document = json.loads(read_status(run).to_json())
        print(json.dumps({**document, "submission": _document(submission, find(submission))}, indent=1))
    elif options.watch:
        watch_status(run, ask)
    else:
        print_status(read_status(run), ask()[0])
    return 0


def _given(options: argparse.Namespace) -> Path:
    """The run directory; one that is given as a path is shown as that path."""
    given: Path = options.run
    return given if given.is_dir() else find_run(given, options.runs)


def _line(submission: Submission | None, standing: Standing | None) -> str | None:
    if submission is None or standing is None:
        return None
    nodes = f", {submission.nodes} nodes" if submission.nodes > 1 else ""
    return f"{submission}{nodes}: {standing}"


def _document(submission: Submission | None, standing: Standing | None) -> Mapping[str, object] | None:
    if submission is None or standing is None:
        return None
    return {
        "cluster": submission.cluster,
        "job_id": submission.job_id,
        "nodes": submission.nodes,
        "state": standing.state,
        "reason": standing.reason,
        "submitted": submission.time,
    }


def _status_of_all(options: argparse.Namespace) -> int:
    from distlth.facts.overview import RunRow, no_runs, read_row, rows_to_json
    from distlth.report.console import overview_table, show, watch_rows

    queue = _Queue()

    def read() -> Sequence[RunRow]:
        runs = runs_in(options.runs)
        return [read_row(run, queue.standing(_readable_submission(run))) for run in runs]

    if not runs_in(options.runs) and not options.json:
        raise no_runs(options.runs)
    if options.json:
        print(rows_to_json(read()))
    elif options.watch:
        watch_rows(read)
    else:
        show(overview_table(read()))
    return 0


def _readable_submission(run: RunPaths) -> Submission | None:
    try:
        return load_submission(run)
    except UserError:
        return None


class _Queue:
    """The queue, asked at most every few seconds: one squeue serves all runs."""

    def __init__(self) -> None:
        self._asked = float("-inf")
        self._users: set[str] = set()
        self._queue: Mapping[str, Standing] | None = {}

    def standing(self, submission: Submission | None) -> Standing | None:
        """How a submission stands."""
        if submission is None:
            return None
        if submission.cluster == "slurm":
            is_old = time.monotonic() - self._asked > QUEUE_SECONDS
            if is_old or submission.user not in self._users:
                self._users.add(submission.user)
                self._queue, self._asked = read_queue(self._users), time.monotonic()
        return standing(submission, self._queue)


# -- logs ---------------------------------------------------------------------------------------------


def _logs(options: argparse.Namespace) -> int:
    run = RunPaths(_given(options))
    submission = load_submission(run)
    tail = _tail(submission, options.rank)
    printed, happened = tail.since_last_start(), _Events(run)
    newest = happened.since_last_start()
    if not options.follow and not printed and not newest:
        line = _line(submission, find(submission))
        raise UserError(f"{options.run}: nothing was printed yet{f'; {line}' if line else ''}")
    for path, text in ((tail.path, printed), (run.log, newest)):
        _write(b"==> %s <==\n%s" % (os.fsencode(path), text) if text else b"")
    for _ in _until_ended(run, submission) if options.follow else ():
        _write(tail.more() + happened.more())
    return 0


def _tail(submission: Submission | None, rank: int) -> _Tail:
    if submission is None:
        return _Tail(Path(os.devnull))
    if not 0 <= rank < submission.nodes:
        raise UserError(f"--rank {rank}: there is a task a node, 0 to {submission.nodes - 1}")
    return _Tail(submission.paths.log(submission.job_id, rank))


def _until_ended(run: RunPaths, submission: Submission | None) -> Iterator[None]:
    """Again and again while the run waits or trains, and once after."""
    from distlth.facts.status import read_status

    queue = _Queue()
    while True:
        standing = queue.standing(submission)
        is_active = standing.is_active if standing else read_status(run).state == "running"
        yield
        if not is_active:
            return
        time.sleep(FOLLOW_SECONDS)


class _Tail:
    """A file that grows, from its last start of a task on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def since_last_start(self) -> bytes:
        """What the newest start of the task printed so far; all of it where none is marked."""
        text = self.more()
        starts = [match.start() for match in START.finditer(text)]
        return text[starts[-1] :] if starts else text

    def more(self) -> bytes:
        """What came since the last call."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return b""
        self._offset += len(text)
        return text


class _Events:
    """A run's log as lines for people, from its last start on."""

    def __init__(self, run: RunPaths) -> None:
        self._log = run.log
        self._offset = 0

    def since_last_start(self) -> bytes:
        """What happened since the newest start of the run; all of it where none is noted."""
        events = self._read()
        starts = [index for index, event in enumerate(events) if event["event"] == "run-start"]
        return _lines(events[starts[-1] if starts else 0 :])

    def more(self) -> bytes:
        """What happened since the last call."""
        return _lines(self._read())

    def _read(self) -> Sequence[Mapping[str, object]]:
        from distlth.facts.status import read_events

        events, self._offset = read_events(self._log, self._offset)
        return events


def _lines(events: Sequence[Mapping[str, object]]) -> bytes:
    from distlth.report.console import describe_line

    return "".join(f"{describe_line(event)}\n" for event in events).encode()


def _write(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.flush()


# -- tensorboard --------------------------------------------------------------------------------------


def _tensorboard(options: argparse.Namespace) -> int:
    runs = [RunPaths(find_run(path, options.runs)) for path in options.runs_shown] or [
        RunPaths(run.root.absolute()) for run in runs_in(options.runs)
    ]
    if not runs:
        raise UserError(f"{options.runs}: no runs here; say where they are with --runs DIR")
    port = options.port or free_port()
    folder = runs[0].tensorboard if len(runs) == 1 else links(runs)
    print(f"http://{options.host}:{port}  ({len(runs)} runs; Ctrl-C ends it)")
    print("from your own machine, through a tunnel:")
    print(f"  ssh -L {port}:localhost:{port} {getpass.getuser()}@{this_host()}", flush=True)
    program = [sys.executable, "-m", "tensorboard.main"]
    os.execv(program[0], [*program, "--logdir", str(folder), "--port", str(port), "--host", options.host])


def this_host() -> str:
    """This machine's name as others may know it."""
    full = socket.getfqdn()
    return socket.gethostname() if full.startswith("localhost") else full


def free_port(first: int = 6006, tries: int = 200) -> int:
    """The first port from `first` on that nobody listens on here.

    Raises:
        UserError: all that were tried are taken.
    """
    for port in range(first, first + tries):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise UserError(f"no free port from {first} to {first + tries - 1}; choose one with --port")


def links(runs: Sequence[RunPaths]) -> Path:
    """A folder with a link to the curves of each run, under the run's name."""
    folder = Path(tempfile.mkdtemp(prefix="distlth-tensorboard-"))
    for run in runs:
        link = folder / run.root.name
        if link.is_symlink():  # runs of one name in two folders
            link = folder / f"{run.root.parent.name}-{run.root.name}"
        link.symlink_to(run.tensorboard)
    return folder
