"""Where output goes nowhere: reports that cannot be written, readers that have gone, closed streams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distlth.files import append_json, write_text
from distlth.report.console import RunView
from distlth.run.paths import RunPaths
from jobs.cli import main
from tests.disk import Disk
from tests.tiny_run import make_result, new_run

ROOT = Path(__file__).parent.parent.parent


def finished_run(folder: Path) -> RunPaths:
    """A run with a result, a log and no report."""
    run = new_run(folder / "tiny")
    make_result("00").save(run.job("00"))
    append_json(run.log, {"time": 1.0, "event": "run-start"})
    return run


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


def test_a_report_that_cannot_be_written_is_one_line(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(disk.folder)
    with disk.read_only():
        assert main(["report", str(run.root)]) == 2
    assert f"error: {run.report.root}: " in one_error(capsys)
    assert not run.report.root.exists()
    assert main(["report", str(run.root)]) == 0
    capsys.readouterr()
    before = run.report.page.read_bytes()
    disk.fill()
    assert main(["report", str(run.root)]) == 2
    disk.free()
    assert str(run.report.root / "accuracy.png") in one_error(capsys)  # the page comes last
    assert run.report.page.read_bytes() == before
    files = {"report.html", "results.md", "results.csv", "points.csv", "accuracy.png"}
    assert {path.name for path in run.report.root.iterdir()} == files


@pytest.mark.parametrize("is_new", [True, False])
def test_a_report_is_written_once(is_new: bool, tmp_path: Path) -> None:
    """The coordinator writes it at the end of a run; that of an earlier command may be of other results."""
    run = finished_run(tmp_path)
    with RunView() as view:
        write_text(run.report.page, "written meanwhile")
        if not is_new:
            os.utime(run.report.page, (0, 0))
        view.summary(run)
    assert (run.report.page.read_text() == "written meanwhile") == is_new


def test_a_file_in_the_place_of_the_report_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path)
    run.report.root.touch()
    assert main(["report", str(run.root)]) == 2
    assert one_error(capsys) == f"error: {run.report.root}: File exists\n"
    with RunView() as view:
        view.summary(run)
    shown = capsys.readouterr()
    assert shown.err.startswith("the report cannot be written ([Errno 17] File exists: ")
    assert shown.err.endswith(f"distlth report {run.root} tries again\n")
    assert shown.err.count("\n") == 1
    assert "imp" in shown.out


def test_a_run_whose_log_cannot_be_read_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(tmp_path)
    other = new_run(tmp_path / "other")
    other.log.mkdir()
    assert main(["status", "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "tiny" in shown
    assert "log.jsonl" in shown


def test_logs_of_a_run_that_was_not_submitted_are_its_events(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = finished_run(tmp_path)
    assert main(["logs", str(run.root)]) == 0
    shown, _ = capsysbinary.readouterr()
    assert shown.startswith(b"==> %s <==\n" % os.fsencode(run.log))
    assert shown.endswith(b"run start\n")


@pytest.fixture
def gone() -> Iterator[int]:
    """The end of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def call(words: str, folder: Path, *before: str, **streams: int) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a folder, by a process of its own."""
    command = [*before, sys.executable, "-m", "jobs.cli", *words.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=folder, check=False, **streams)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    "words", ["status tiny", "status --json tiny", "status --runs .", "report tiny", "logs tiny"]
)
def test_a_reader_that_has_gone_is_code_141(tmp_path: Path, words: str, gone: int) -> None:
    finished_run(tmp_path)
    ended = call(words, tmp_path, stdout=gone, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("words", "code"), [("status tiny", 0), ("status --json tiny", 0), ("status none", 2)]
)
def test_closed_streams_change_no_exit_code(tmp_path: Path, words: str, code: int) -> None:
    finished_run(tmp_path)
    assert call(words, tmp_path, "bash", "-c", 'exec "$@" >&- 2>&-', "bash").returncode == code


def test_an_error_that_nobody_reads_keeps_its_exit_code(tmp_path: Path, gone: int) -> None:
    assert call("status none", tmp_path, stderr=gone).returncode == 2
