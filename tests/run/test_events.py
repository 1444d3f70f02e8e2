"""The event log: nothing is lost to a full disk, and readers pass over what is not whole."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distlth.files import read_json_lines
from distlth.run import events
from distlth.run.events import EventLog, read_events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "log.jsonl"


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Let this process write no file beyond `size` bytes: like a full disk, for any user."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def kinds(path: Path) -> list[str]:
    return [event["event"] for event in read_json_lines(path)]


def test_an_event_is_a_line_with_time_kind_and_details(path: Path) -> None:
    before = time.time()
    EventLog(path).note("mask", job="01", density=0.8)
    ((event,), _) = read_events(path)
    assert list(event) == ["time", "event", "job", "density"]
    assert before <= event["time"] <= time.time()
    assert (event["event"], event["job"], event["density"]) == ("mask", "01", 0.8)


def test_what_a_full_disk_does_not_take_is_written_with_the_next_event(path: Path) -> None:
    log = EventLog(path)
    log.note("first")
    with no_file_beyond(path.stat().st_size + 10):
        log.note("second", message="x" * 100)
        log.note("third")
        assert [event["event"] for event in log.unwritten] == ["second", "third"]
        with pytest.raises(OSError, match="No space left"):
            log.flush()
        assert kinds(path) == ["first"]
    log.note("fourth")
    assert kinds(path) == ["first", "second", "third", "fourth"]
    assert log.unwritten == ()


def test_flush_writes_what_is_left(path: Path) -> None:
    log = EventLog(path)
    path.parent.mkdir()
    path.touch()
    with no_file_beyond(1):
        log.note("only")
    log.flush()
    assert (kinds(path), log.unwritten) == (["only"], ())


def test_threads_and_logs_share_a_file(path: Path) -> None:
    logs = [EventLog(path), EventLog(path)]

    def note_many(worker: int) -> None:
        for number in range(50):
            logs[worker % 2].note("step", worker=worker, number=number)

    threads = [threading.Thread(target=note_many, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    noted = [(event["worker"], event["number"]) for event in read_json_lines(path)]
    assert sorted(noted) == [(worker, number) for worker in range(4) for number in range(50)]


def test_reading_continues_where_it_ended(path: Path) -> None:
    assert read_events(path) == ([], 0)
    log = EventLog(path)
    log.note("first")
    events, offset = read_events(path)
    assert [event["event"] for event in events] == ["first"]
    log.note("second")
    events, offset = read_events(path, offset)
    assert [event["event"] for event in events] == ["second"]
    assert read_events(path, offset) == ([], path.stat().st_size)


def test_lines_that_are_no_whole_events_are_left_out(path: Path) -> None:
    EventLog(path).note("first")
    with open(path, "a") as file:
        file.write('{"time": 1, "ev\n[]\n{"event": "timeless"}\n{"time": 1, "event": 2}\n')
        file.write('{"time": 17, "event": "last"')
    events, offset = read_events(path)
    assert [event["event"] for event in events] == ["first"]
    with open(path, "a") as file:
        file.write("}\n")
    assert read_events(path, offset)[0] == [{"time": 17, "event": "last"}]


def test_an_event_that_is_being_written_has_not_been_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(path)
    seen: list[tuple[events.Event, ...]] = []

    def write(*_: object) -> None:
        seen.append(log.unwritten)

    monkeypatch.setattr(events, "append_json", write)
    log.note("mask", job="01")
    assert seen == [()]
