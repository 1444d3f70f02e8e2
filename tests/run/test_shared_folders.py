"""What others put into folders that they can write, too, makes no command wait, and fills no memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distlth.files import read_small

# Reads everything that may lie in a folder of others: of sessions, and of a run. Prints what is said of it.
READ = """
import resource, sys
from pathlib import Path
from cluster.runtime.rendezvous import Rendezvous, sweep_rendezvous
from cluster.runtime.session import sweep
from distlth.errors import UserError
from distlth.files import append_json, load_tensors, read_json_lines
from distlth.run.events import read_events
from distlth.run.lock import held_by
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.store import load_record
from distlth.run.submission import load_submission
import torch
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
run = RunPaths(Path())
calls = [
    sweep,
    lambda: held_by(run.lock, 60),
    lambda: Rendezvous(run.rendezvous / "7-0").heard(),
    lambda: sweep_rendezvous(run.rendezvous),
    lambda: load_submission(run),
    lambda: read_json_lines(run.attempts),
    lambda: load_record(run),
    lambda: JobResult.load(run.job("00")),
    lambda: read_events(run.log),
    lambda: append_json(run.log, {}),
    lambda: read_json_lines(run.log),
    lambda: load_tensors(run.job("00").mask),
]
for run in [RunPaths(Path(kind)) for kind in sys.argv[1:]]:
    for call in calls:
        try:
            call()
        except (UserError, OSError) as error:
            print(error)
"""


KINDS: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


def test_what_is_no_file_is_passed_over_or_named(tmp_path: Path) -> None:
    names = ("run.lock", "nodes/7-0/call.json", "submission.json", "attempts.jsonl", "job.yaml", "log.jsonl")
    jobs = ("rounds/00/result.json", "rounds/00/mask.safetensors")
    for kind, make in KINDS.items():
        for path in (f"distlth-{kind}/owner", *(f"{kind}/{name}" for name in (*names, *jobs))):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            make(tmp_path / path)
    ended = subprocess.run(
        [sys.executable, "-c", READ, *KINDS],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    for kind in KINDS:
        for name in ("submission.json", "attempts.jsonl", "job.yaml", "log.jsonl", *jobs):
            assert f"{kind}/{name}" in ended.stdout
        assert (tmp_path / f"distlth-{kind}").exists()  # it is not one of ours


def test_a_file_that_must_be_ones_own_is_no_link_and_no_other_users(tmp_path: Path) -> None:
    mine, link, long = tmp_path / "mine", tmp_path / "link", tmp_path / "long"
    mine.write_text("text")
    link.symlink_to(mine)
    long.write_text("text and more")
    assert read_small(mine, 4, own=True) == read_small(link) == "text"
    with pytest.raises(OSError, match="symbolic links"):
        read_small(link, own=True)
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_small(long, 4)
    if os.geteuid() == 0:
        os.chown(mine, 65534, 65534)
        with pytest.raises(PermissionError, match="belongs to another user"):
            read_small(mine, own=True)
