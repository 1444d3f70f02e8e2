"""What a login node shows: the table of all runs, the logs of one, TensorBoard's folder; without torch."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distlth.facts.overview import read_row
from distlth.files import append_json
from distlth.report.console import overview_table
from distlth.run.paths import RunPaths, runs_in
from distlth.run.results import save_progress
from distlth.run.store import RunRecord
from distlth.run.submission import Standing, record_submission
from jobs import standings
from jobs.cli import main
from jobs.commands.tensorboard import free_port, links
from tests.report.test_console import cells
from tests.run.test_store import config
from tests.tiny_run import make_progress, make_result, make_submission

PENDING = Standing("PENDING", "Priority")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run that trains, one that waits in a queue, one that is damaged, and no squeue."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    folder = tmp_path / "runs"
    trains, waits, damaged = (RunPaths(folder / name) for name in ("a", "b", "c"))
    trains.root.mkdir(parents=True)
    trains.job_file.write_text(RunRecord(config(name="a"), {}, {}, 0.0).to_yaml())
    for event in ("run-start", "lost", "run-start", "first-step"):
        append_json(trains.log, {"time": time.time(), "event": event})
    make_result("00", top1=0.9).save(trains.job("00"))
    save_progress(trains.job("01"), make_progress(step=10, epoch=1))
    settings = config(name="b").model_dump(mode="json")
    record_submission(waits, make_submission("13_1", config=settings, folder=str(folder / ".submitit/b/1")))
    damaged.root.mkdir()
    damaged.job_file.write_text("versions: {}\n")
    (folder / ".submitit" / "b" / "1").mkdir(parents=True)
    return folder


def test_every_run_has_a_line(runs: Path) -> None:
    assert [run.root.name for run in runs_in(runs)] == ["a", "b", "c"]
    rows = [read_row(run, PENDING if run.root.name == "b" else None) for run in runs_in(runs)]
    table = cells(overview_table(rows))
    assert ["a", "running", "–", "1", "1/3", "1", "01", "10/40", "1:05", "90.00% val"] in [
        [*line[:8], "1:05", line[-1]] for line in table
    ]
    assert ["b", "waiting", "PENDING (Priority)", "13_1", "0/3"] in table
    assert ["c", "unreadable", "–"] in table
    assert "job.yaml: damaged" in str(rows[2].problem)


def test_a_run_whose_job_starts_is_not_called_stopped(runs: Path) -> None:
    (_, waits, _) = runs_in(runs)
    assert read_row(waits, Standing("RUNNING")).state == "starting"
    assert read_row(waits, Standing("ended")).state == "waiting"


def test_the_command_without_a_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--runs", str(runs), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["running", "waiting", "unreadable"]
    assert rows[1]["queue"] == {"state": "unknown", "reason": "no answer from squeue"}
    assert rows[0]["best"] == 0.9
    assert main(["status", "--runs", str(runs / "none")]) == 2
    assert "say where they are with --runs DIR" in capsys.readouterr().err


def test_a_run_that_waits_can_be_asked_for_by_name(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "b", "--runs", str(runs)]) == 0
    printed = capsys.readouterr().out
    assert "waiting  0 of 3 jobs done" in printed
    assert "job 13_1: unknown (no answer from squeue)" in printed
    assert main(["status", str(runs / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["submission"]["job_id"] == "13_1"


def test_logs_begin_with_the_newest_start(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SLURM appends the output of a requeued job to the same file."""
    start = "submitit INFO (2026-01-01) - Starting with JobEnvironment(job_id=13_1)\n"
    log = runs / ".submitit" / "b" / "1" / "13_1_0_log.out"
    log.write_text(f"module loaded\n{start}old\nslurmstepd: CANCELLED DUE TO PREEMPTION\n{start}new\n")
    append_json(RunPaths(runs / "b").log, {"time": 0.0, "event": "run-start"})
    append_json(RunPaths(runs / "b").log, {"time": 0.0, "event": "lost", "message": "an old story"})
    append_json(RunPaths(runs / "b").log, {"time": 1.0, "event": "run-start"})
    assert main(["logs", "b", "--runs", str(runs)]) == 0
    printed = capsys.readouterr().out
    assert f"{start}new\n" in printed
    assert "run start" in printed
    assert "old" not in printed.replace("/old", "")
    assert main(["logs", "b", "--runs", str(runs), "--rank", "1"]) == 2
    assert "there is a task a node, 0 to 0" in capsys.readouterr().err


def test_logs_of_a_run_that_printed_nothing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "b", "--runs", str(runs)]) == 2
    assert "nothing was printed yet" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["status"], ["status", "b"], ["logs", "b"], ["cancel", "b"]])
def test_a_login_node_loads_neither_torch_nor_ray(runs: Path, command: list[str]) -> None:
    code = (
        "import sys; from jobs.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, sorted({'torch', 'ray', 'ffcv', 'matplotlib', 'submitit'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=runs.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1].partition(" ")[2] == "[]"


def test_curves_of_several_runs_stand_under_their_names(tmp_path: Path) -> None:
    paths = [RunPaths(tmp_path / name) for name in ("one/a", "two/a", "b")]
    folder = links(paths)
    found = {link.name: link.readlink() for link in folder.iterdir()}
    assert found == {"a": paths[0].tensorboard, "two-a": paths[1].tensorboard, "b": paths[2].tensorboard}
    shutil.rmtree(folder.parent)


def test_what_an_earlier_tensorboard_left_is_removed(tmp_path: Path) -> None:
    code = f"from jobs.commands.tensorboard import *; print(links([RunPaths(Path({str(tmp_path)!r}))]))"
    told = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout]
    assert Path(told[0].strip()).is_dir()
    told += [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout]
    assert [Path(each.strip()).parent.exists() for each in told] == [False, True]


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port


def test_tensorboard_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorboard", "--runs", str(tmp_path)]) == 2
    assert "no runs here" in capsys.readouterr().err


def test_one_squeue_serves_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def read_queue(users: Any) -> dict[str, Standing]:
        asked.append(sorted(users))
        return {"1": PENDING}

    monkeypatch.setattr(standings, "read_queue", read_queue)
    shown = standings.Standings()
    assert shown.of(make_submission("1")) == PENDING
    assert shown.of(make_submission("2")) == Standing("ended")
    assert shown.of(None) is None
    assert asked == [["ann"]]
