"""Progress is written beside training, which waits for no file system."""

from __future__ import annotations

import threading

from distlth.train.newest import NewestWriter


def test_a_file_system_that_hangs_holds_nobody_up_and_gets_the_newest() -> None:
    answers, asked, written = threading.Event(), threading.Event(), list[int]()

    def write(value: int) -> None:
        asked.set()
        assert answers.wait(10)
        written.append(value)

    writer = NewestWriter(write)
    writer.put(1)
    assert asked.wait(10)
    for value in (2, 3, 4):
        writer.put(value)
    assert written == []
    answers.set()
    writer.close()
    assert written == [1, 4]


def test_a_full_disk_costs_only_what_did_not_fit() -> None:
    written = list[int]()

    def write(value: int) -> None:
        if value == 1:
            raise OSError("full")
        written.append(value)

    writer = NewestWriter(write)
    writer.put(1)
    while writer._values:
        pass
    writer.put(2)
    writer.close()
    assert written == [2]


def test_a_writer_that_got_nothing_has_no_thread() -> None:
    NewestWriter(print).close()
