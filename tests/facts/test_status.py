"""Where a run stands, by the files of its directory, whole and half-written."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from distlth.errors import RunError
from distlth.facts.status import read_status
from distlth.files import append_json
from distlth.plan import plan
from distlth.run.paths import RunPaths
from distlth.run.results import Progress, save_progress
from tests.tiny_run import NOW, make_config, make_result, new_run


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return new_run(tmp_path / "tiny")


def make_progress(job: str, age: float = 1.0) -> Progress:
    return Progress(
        job=job,
        epoch=2,
        epochs=4,
        step=10,
        steps=40,
        loss=math.nan,
        images_per_second=100.0,
        seconds_left=30.0,
        time=NOW - age,
    )


def put_progress(run: RunPaths, job: str, age: float = 1.0, clock: float = 0.0) -> None:
    """Leave a report of a machine whose clock is `clock` seconds ahead of the file system's."""
    save_progress(run.job(job), make_progress(job, age - clock))
    os.utime(run.job(job).progress, (NOW - age, NOW - age))


def put_event(run: RunPaths, event: str, age: float = 1.0, clock: float = 0.0, **details: object) -> None:
    append_json(run.log, {"time": NOW - age + clock, "event": event, **details})
    os.utime(run.log, (NOW - age, NOW - age))


@pytest.mark.parametrize(
    ("ages", "event", "event_age", "state"),
    [
        ({"01": 1.0}, "first-step", 1.0, "running"),
        ({"01": 500.0}, "first-step", 500.0, "stopped"),
        ({}, "run-start", 5.0, "running"),
        ({}, "run-start", 500.0, "stopped"),
        ({"01": 1.0}, "failed", 1.0, "failed"),
    ],
)
def test_state_of_a_run(
    run: RunPaths, ages: Mapping[str, float], event: str, event_age: float, state: str
) -> None:
    make_result("00").save(run.job("00"))
    for job, age in ages.items():
        put_progress(run, job, age)
    put_event(run, event, event_age)
    status = read_status(run, now=NOW)
    assert (status.state, status.done, len(status.jobs)) == (state, 1, 7)
    expected = "running" if state == "running" else "stopped"
    assert {job.id: job.state for job in status.jobs if job.progress} == dict.fromkeys(ages, expected)


@pytest.mark.parametrize("clock", [-3600.0, 3600.0])
def test_the_clocks_of_the_machines_that_write_do_not_count(run: RunPaths, clock: float) -> None:
    put_event(run, "first-step", age=5.0, clock=clock)
    assert read_status(run, now=NOW).state == "running"
    put_event(run, "first-step", age=500.0, clock=clock)
    assert read_status(run, now=NOW).state == "stopped"
    put_progress(run, "00", age=5.0, clock=clock)
    assert read_status(run, now=NOW).state == "running"
    put_progress(run, "00", age=500.0, clock=clock)
    assert read_status(run, now=NOW).state == "stopped"


def test_the_clock_of_the_machine_that_reads_does_not_count(
    run: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_progress(run.job("00"), make_progress("00"))
    monkeypatch.setattr("distlth.facts.status.time.time", lambda: NOW)  # long before the file was written
    assert read_status(run).state == "running"
    os.utime(run.job("00").progress, (NOW, NOW))
    assert read_status(run).state == "stopped"
    assert not list(run.root.glob(".*"))


def test_a_run_whose_jobs_are_all_done_is_done(run: RunPaths) -> None:
    for job in plan(make_config()):
        make_result(job.id).save(run.job(job.id))
    status = read_status(run, now=NOW)
    assert (status.state, status.done, status.seconds_left) == ("done", 7, 0.0)


def test_time_left_is_the_current_job_and_those_to_come(run: RunPaths) -> None:
    assert read_status(run, now=NOW).seconds_left is None
    make_result("00", seconds=12.0).save(run.job("00"))
    put_progress(run, "01")
    assert read_status(run, now=NOW).seconds_left == pytest.approx(30.0 + 5 * 12.0)


def test_half_written_files_do_not_hide_a_run(run: RunPaths) -> None:
    make_result("00").save(run.job("00"))
    for torn in (run.job("01").progress, run.job("02").result):
        torn.parent.mkdir(parents=True, exist_ok=True)
    run.job("01").progress.write_text('{"job": "01", "epo')
    run.job("02").result.write_text('{"job": "02"}')
    put_event(run, "job-done", job="00")
    with open(run.log, "a") as log:
        log.write('{"time": 17, "event": "fai')
    os.utime(run.log, (NOW, NOW))
    status = read_status(run, now=NOW)
    assert (status.state, status.done) == ("running", 1)
    assert status.last_event is not None
    assert status.last_event["event"] == "job-done"


def test_json_is_strict(run: RunPaths) -> None:
    make_result("00").save(run.job("00"))
    put_progress(run, "01")
    put_event(run, "something-new", job="01")
    document = json.loads(read_status(run, now=NOW).to_json(), parse_constant=pytest.fail)
    assert (document["state"], document["jobs_done"], document["jobs_total"]) == ("running", 1, 7)
    assert document["jobs"][1]["progress"]["loss"] is None
    assert document["last_event"]["event"] == "something-new"


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, run: RunPaths) -> None:
    for folder, reason in ((tmp_path / "absent", "no such run directory"), (tmp_path, "not a run directory")):
        with pytest.raises(RunError, match=reason):
            read_status(RunPaths(folder))
    run.job_file.write_text("config: [")
    with pytest.raises(RunError, match="damaged"):
        read_status(run)


def test_reading_a_status_loads_nothing_that_draws_or_trains() -> None:
    """A login node has little time and memory."""
    code = (
        "import sys, distlth.facts.overview, distlth.facts.rows, distlth.facts.status\n"
        "print(sorted({'torch', 'matplotlib', 'rich', 'tensorboard'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
