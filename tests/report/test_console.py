"""What is printed: tables, plain lines, bars, errors."""

import dataclasses
import io
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from distlth.config.read import parse_config
from distlth.facts.planned import PlannedJob
from distlth.facts.status import JobStatus, RunStatus
from distlth.files import append_json, write_text
from distlth.models import anatomy, build
from distlth.report.console import (
    RunView,
    describe,
    layers_table,
    measured_table,
    plan_table,
    points_table,
    results_table,
    status_table,
)
from distlth.report.measured import Measured
from distlth.report.text import density_percent, duration, memory, percent
from distlth.run.paths import RunPaths
from distlth.run.results import save_progress
from distlth.run.store import RunRecord
from tests.facts.test_rows import derive, over_seeds
from tests.tiny_run import make_progress, make_result


def cells(renderable: RenderableType) -> list[list[str]]:
    """The words of each printed line, split at two spaces or more."""
    console = Console(file=io.StringIO(), width=140, record=True)
    console.print(renderable)
    lines = console.export_text().splitlines()
    return [[word.strip() for word in line.split("  ") if word.strip()] for line in lines if line.strip()]


def make_status(step: int = 10, epoch: int = 2) -> RunStatus:
    done, waiting = (
        make_result("00", seconds=75.0),
        JobStatus("01/refill", 0, 1, "refill", 0.8, "waiting", None, None),
    )
    return RunStatus(
        name="tiny",
        path=Path("runs/tiny"),
        state="running",
        jobs=(
            JobStatus("00", 0, 0, "imp", 1.0, "done", None, done),
            JobStatus("01", 0, 1, "imp", 0.8, "running", make_progress(step, epoch), None),
            waiting,
        ),
        seconds_left=140.0,
        last_event={"time": 0.0, "event": "first-step", "job": "01"},
        time=time.time(),
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (float("inf"), "–"),
        (8.31, "8.3 s"),
        (9.97, "10 s"),
        (59.6, "1:00"),
        (245, "4:05"),
        (7445, "2:04:05"),
        (273900, "3 d 04:05"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_for_people() -> None:
    assert [density_percent(density) for density in (1.0, 0.512, 0.01153)] == ["100%", "51.2%", "1.15%"]
    assert [percent(value) for value in (0.98765, None, float("nan"))] == ["98.77%", "–", "–"]
    assert [memory(size) for size in (3 * 2**20, 3 * 2**30)] == ["3 MiB", "3.0 GiB"]


def test_results_table() -> None:
    results = derive(
        make_result("00", 1.0, 0.9, seconds=75.0),
        replace(make_result("01/refill", 0.789, 0.885, seconds=8.0), alive=395, macs=50, alive_macs=25),
    )
    table = cells(results_table(results))
    assert ["0", "imp", "100.00%", "–", "–", "90.00%", "99.00%", "1:15"] in table
    assert ["1", "refill", "78.90%", "39.50%", "50.00%", "88.50%", "-1.50", "99.00%", "8.0 s"] in table


def test_several_seeds_have_a_column_and_a_table_of_means() -> None:
    results = over_seeds(0.90, 0.92)
    assert ["1", "0", "imp", "100.00%", "–", "–", "92.00%", "99.00%", "10 s"] in cells(results_table(results))
    assert ["0", "imp", "100.00%", "–", "–", "2", "91.00% ± 1.41", "99.00%"] in cells(points_table(results))


def test_layers_that_keep_nothing_are_marked() -> None:
    emptied = [
        replace(make_result("01", 0.1), empty_layers=1),
        replace(make_result("02", 0.01), empty_layers=3),
    ]
    table = cells(results_table(derive(make_result("00"), *emptied)))
    assert [row[2] for row in table if row[0] in "12"] == ["10.00% (1 layer empty)", "1.00% (3 layers empty)"]


def test_plan_and_layers_add_up() -> None:
    jobs = [
        PlannedJob("00", 0, "imp", 1.0, 4, 1000, 3e9),
        PlannedJob("01/refill", 1, "refill", 0.8, 2, 500, 3e9),
    ]
    table = cells(plan_table(jobs))
    assert ["01/refill", "refill", "80.00%", "2", "500", "2.8 GiB"] in table
    assert ["2 jobs", "6", "1,500"] in table
    layers = anatomy(build("resnet20", 10, seed=0), 32).convs[:2]
    table = cells(layers_table(layers))
    assert ["layer1.0.conv1", "16 × 16 × 3 × 3", "1", "2,304", "2.4"] in table
    assert ["2 layers", "2,736", "2.8"] in table


def test_status_table() -> None:
    lines = cells(status_table(make_status()))
    assert lines[0] == ["tiny", "running", "1 of 3 jobs done, 2:20 left", "runs/tiny"]
    assert ["00", "imp", "100.00%", "done", "90.00%", "99.00%", "1:15"] in lines
    assert ["01", "imp", "80.00%", "running", "25%", "1:05"] in lines
    assert ["01/refill", "refill", "80.00%", "waiting"] in lines
    assert lines[-1][-1] == "first step"


def test_events_of_unknown_kinds_are_described() -> None:
    assert describe({"time": 1.0, "event": "mask", "job": "03/refill", "density": 0.5, "seconds": 4.24}) == (
        "03/refill  mask  density 50.00%  4.2 s"
    )
    assert describe({"time": 1.0, "event": "new-thing", "node": [7]}) == "new thing  node [7]"


def test_a_log_gets_few_lines() -> None:
    """At a new epoch, if the last line is some seconds old; in a long epoch now and then."""
    output = io.StringIO()
    with RunView(Console(file=output, width=200)) as view:
        for seconds, step, epoch in ((0, 10, 1), (1, 20, 2), (20, 22, 2), (30, 24, 2), (90, 26, 2)):
            view.update(dataclasses.replace(make_status(step, epoch), time=1000.0 + seconds))
    lines = output.getvalue().splitlines()
    shown = ["epoch 1/4 step 10/40", "epoch 2/4 step 22/40", "epoch 2/4 step 26/40"]
    assert [line.split("  ")[3] for line in lines] == shown
    assert lines[0].endswith("loss 1.250  512 images/s  1:05 left  (run: 1 of 3 jobs  2:20 left)")


def test_a_terminal_gets_bars_that_go_away() -> None:
    output = io.StringIO()
    with RunView(Console(file=output, width=160, force_terminal=True)) as view:
        view.update(make_status())
        shown = output.getvalue()
        assert "step 10/40" in shown
        assert "1 of 3 jobs" in shown
    # Leaving erases the lines of the bars, one control sequence each.
    assert output.getvalue()[len(shown) :].count("\x1b[2K") >= 2


def test_view_follows_the_run_directory(tmp_path: Path) -> None:
    run = RunPaths(tmp_path / "tiny")
    document = {
        "name": "tiny",
        "data": {"path": "data"},
        "model": {"name": "resnet20"},
        "train": {"epochs": 4, "batch_size": 8, "lr": 0.1},
        "prune": {"rounds": 1},
    }
    write_text(run.job_file, RunRecord(parse_config(document, "test"), {}, {}, 0.0).to_yaml())
    append_json(run.log, {"time": time.time() - 100, "event": "failed", "message": "an old story"})
    output = io.StringIO()
    with RunView(Console(file=output, width=200)) as view:
        append_json(run.log, {"time": time.time(), "event": "run-start", "jobs": 2})
        append_json(run.log, {"time": time.time(), "event": "first-step", "job": "00"})
        save_progress(run.job("00"), make_progress(step=10, epoch=1))
        view.show(run)
        view.show(run)
        make_result("00").save(run.job("00"))
        view.summary(run)
    lines = output.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines[:2]] == ["run start", "00"]
    assert "old story" not in output.getvalue()
    assert output.getvalue().count("step 10/40") == 1
    assert lines[-1].endswith(str(run.report.page))
    assert (run.report.root / "accuracy.png").stat().st_size > 1000


FULL = "/dev/full"  # takes nothing, as a full disk


class TestOutputThatFails:
    """What is only shown ends nothing."""

    def run(self, code: str, encoding: str = "utf-8", **streams: Any) -> subprocess.CompletedProcess[str]:
        begin = "from distlth.report.console import RunView\nfrom distlth.report.ending import exit_code\n"
        command = [sys.executable, "-c", begin + code]
        env = {**os.environ, "PYTHONIOENCODING": encoding}
        return subprocess.run(command, env=env, text=True, check=False, **streams)

    def test_a_view_on_a_full_disk_shows_nothing_and_ends_nothing(self) -> None:
        code = "view = RunView()\nfor _ in range(3000): view._print_line('a long line ' * 9, 0.0)"
        with open(FULL, "w") as full:
            ended = self.run(code, stdout=full, stderr=subprocess.PIPE)
        assert (ended.returncode, ended.stderr) == (0, "")

    def test_a_view_whose_reader_has_gone_ends_nothing(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        ended = self.run("RunView()._print_line('text', 0.0)", stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        assert (ended.returncode, ended.stderr) == (0, "")

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_what_an_encoding_does_not_have_is_replaced(self, encoding: str) -> None:
        code = "RunView()._print_line('16 × 16 – 語', 0.0)\nexit_code(lambda: print('語') or 0)"
        ended = self.run(code, encoding, capture_output=True, errors="replace")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "16" in ended.stdout
        assert ended.stdout.endswith("?\n")

    def test_an_error_keeps_its_exit_code_where_it_cannot_be_printed(self) -> None:
        code = (
            "import sys\nfrom distlth.errors import RunInterrupted, UserError\n"
            "def fail(error): raise error\n"
            "codes = [exit_code(lambda: fail(error)) for error in (UserError('a'), RunInterrupted('b'))]\n"
            "sys.exit(codes != [2, 75])"
        )
        with open(FULL, "w") as full:
            assert self.run(code, stdout=full, stderr=full).returncode == 0


@dataclasses.dataclass(frozen=True)
class Timed:
    """A row of a benchmark."""

    network: str
    batch: int
    milliseconds: float
    quartiles: tuple[float, float]
    macs: int
    file_bytes: int
    macs_saved: float
    saved_of_eager: float | None


def test_a_benchmarks_columns_have_their_units() -> None:
    rows = [
        Timed("dense", 8, 12.5, (12.0, 13.25), 4_100_000, 2**20, 0.0, None),
        Timed("slim", 8, 1250.0, (1.0, 2.0), 100, 3 * 2**30, 0.5, -0.25),
    ]
    table = cells(measured_table(Measured.of("infer", rows)))
    assert table[:2] == [
        ["infer, batch 8"],
        ["network", "ms", "quartiles", "MACs", "file", "MACs saved", "of eager"],
    ]
    assert table[3:] == [
        ["dense", "12.500", "12.000–13.250", "4.10 M", "1 MiB", "0.0%"],
        ["slim", "1,250", "1.000–2.000", "0.00 M", "3.0 GiB", "50.0%", "-25.0%"],
    ]
