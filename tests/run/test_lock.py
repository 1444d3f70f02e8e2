"""The lock of a run, held by real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from distlth.errors import RunError
from distlth.run.lock import hold

HOLD = """
import sys, time
from pathlib import Path
from distlth.errors import RunError
from distlth.run.lock import hold
try:
    with hold(Path(sys.argv[1]), float(sys.argv[2])) as lock:
        print("held", lock.taken_from, flush=True)
        sys.stdin.readline()
except RunError as error:
    print("refused", error, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "run.lock"


def start(path: Path, stale_seconds: float = 60) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(path), str(stale_seconds)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_held_run_is_refused_by_name_and_free_after(path: Path) -> None:
    process = start(path)
    assert said(process) == "held None"
    with pytest.raises(RunError, match=rf"alive, held by process {process.pid} on .*, since"), hold(path, 60):
        pass
    process.communicate("\n")
    with hold(path, 60) as lock:
        assert lock.taken_from is None
    assert not list(path.parent.iterdir())


def test_it_is_released_on_an_error(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(path, 60):
        raise ZeroDivisionError
    assert not path.exists()


def test_what_a_killed_process_held_is_taken_over_at_once(path: Path) -> None:
    process = start(path)
    said(process)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet reaped
    with hold(path, 60) as lock:
        assert lock.taken_from is not None
        assert f"process {process.pid} on" in lock.taken_from
        assert "has ended" in lock.taken_from
    process.communicate()
    assert not path.exists()


def test_a_holder_that_was_silent_too_long_notices_and_leaves_the_run_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distlth.lock.HEARTBEAT_SECONDS", 0.5)
    with hold(path, 60) as mine:
        os.utime(path, (0, 0))
        with hold(path, 60) as other:
            assert other.taken_from is not None
            deadline = time.monotonic() + 10
            while not mine.is_lost and time.monotonic() < deadline:
                time.sleep(0.05)
            assert mine.is_lost
            mine.release()
            assert path.exists()
    assert not path.exists()


def test_the_heart_beats(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distlth.lock.HEARTBEAT_SECONDS", 0.02)
    with hold(path, 60):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert time.time() - path.stat().st_mtime < 60


def test_a_stopped_process_is_taken_over_when_its_time_is_up(path: Path) -> None:
    process = start(path)
    said(process)
    os.kill(process.pid, signal.SIGSTOP)
    os.utime(path, (0, 0))
    with hold(path, 60) as lock:
        assert lock.taken_from is not None
        assert "silent for" in lock.taken_from
        os.kill(process.pid, signal.SIGCONT)
        process.communicate("\n")
        assert path.exists()  # released by neither


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_starters_one_wins(path: Path, stale: bool) -> None:
    if stale:
        process = start(path)
        said(process)
        process.kill()
        process.communicate()
    won: list[str | None] = []
    lost: list[str] = []
    ready, over = threading.Barrier(8), threading.Event()

    def contend() -> None:
        ready.wait()
        try:
            with hold(path, 60) as lock:
                won.append(lock.taken_from)
                over.wait(10)
        except RunError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(won) + len(lost) < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    over.set()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert (won[0] is not None) == stale


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="lock cannot be written"), hold(tmp_path / "file" / "run.lock", 60):
        pass
