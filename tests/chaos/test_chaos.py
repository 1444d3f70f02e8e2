"""One run under many faults of all kinds ends with the bits of an undisturbed run."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distlth.data.dataset import Dataset
from distlth.data.pack.build import BuildOptions, build
from distlth.facts.status import read_status
from distlth.run.paths import RunPaths
from tests.chaos.curves import curves
from tests.chaos.harness import Chaos, Command, LostError, command, differences, events, left_behind
from tests.chaos.hook import Fault, find, functions
from tests.chaos.points import POINTS
from tests.chaos.victims import of_session
from tests.data.fixtures import image_folder
from tests.small_run import JOBS, small_run

FAST = ("cluster.hang_seconds=6", "cluster.answer_seconds=6", "cluster.retries=2")
KILLED, AGAIN, INTERRUPTED = -signal.SIGKILL, os.EX_TEMPFAIL, 128 + signal.SIGINT


@dataclass
class Story:
    """The struck run and everything that was recorded about it, for the tests to check."""

    paths: RunPaths
    digits: Dataset
    process: Command
    struck: list[Fault] = field(default_factory=list)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    endings: dict[str, tuple[int, str]] = field(default_factory=dict)
    second: subprocess.CompletedProcess[str] | None = None
    stopped: dict[str, Any] = field(default_factory=dict)
    tokens: list[bytes] = field(default_factory=list)
    finished: dict[Path, float] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)

    def strike(self, signal: str, target: str, point: str | None = None, **more: Any) -> None:
        """Inject a fault, and return when it has fired."""
        fault = Fault(len(self.struck), signal, target, point, **more)
        self.struck.append(fault)
        self.records[self.name(fault)] = self.process.strike(fault)

    def end(self, signal: str, target: str, point: str | None = None, **more: Any) -> None:
        """Inject a fault that ends the command; record its end and what is left of its session."""
        self.strike(signal, target, point, **more)
        self.endings[self.name(self.struck[-1])] = self.process.end()
        if self.process.codes[-1] != KILLED:  # a killed command cannot clean up: the next launch does
            self.orphans += [str(p) for folder in self.process.sessions for p in of_session(folder)]

    @staticmethod
    def name(fault: Fault) -> str:
        return (
            f"{fault.signal} {fault.target}" if fault.target != "itself" else f"{fault.signal} {fault.point}"
        )

    def wait_for(self, event: str, count: int) -> None:
        """Wait until the log has `count` events of a kind."""
        self.process.wait_for(lambda: len(events(self.paths, event)) >= count)


@pytest.fixture(scope="module")
def story(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Inject many faults into one run. Most end a session early, since starting is what takes time."""
    folder = tmp_path_factory.mktemp("struck")
    with command(small_run(digits, folder, *FAST), Chaos(folder / "chaos")) as process:
        found = Story(RunPaths(folder / "run"), digits, process)
        found.end("KILL", "itself", "run made, no order yet")
        found.end("KILL", "itself", "mid-write of init")

        found.strike("STOP", "itself", "run made, no order yet")
        start_a_second_one(found)
        found.strike("KILL", "itself", "lane start", rank=1)
        found.wait_for("lane-restart", 1)
        found.strike("KILL", "itself", "mid-checkpoint-write")
        found.wait_for("lane-restart", 2)
        stop(found)

        found.strike("STOP", "itself", "evaluation", rank=1)
        found.wait_for("lane-restart", 3)
        found.strike("KILL", "all ranks", "weights written, no result")
        found.wait_for("lane-restart", 4)
        found.end("STOP", "coordinator", "mid-prune")

        # Round 1 has just ended: its regroup's mask cannot be there yet.
        found.strike("KILL", "itself", "mid-regroup")
        found.end("KILL", "raylet", "mask made, not written")
        found.end("KILL", "gcs_server", "mask written, not offered")
        found.end("KILL", "head", delay=2.0)
        interrupt_twice(found)
        found.end("TERM", "run", "ticket fetched")
        found.finished = {p: p.stat().st_mtime for p in found.paths.root.rglob("result.json")}
        process.finish()
        process.wait_for(lambda: not left_behind(found.paths, process.sessions), 20)
        return found


def start_a_second_one(story: Story) -> None:
    """Start the command a second time while the first process, which stands still, holds the run."""
    first = story.process.process
    assert first is not None
    story.second = subprocess.run(story.process.arguments, capture_output=True, text=True, check=False)
    first.send_signal(signal.SIGCONT)


def stop(story: Story) -> None:
    """Stop the run by a signal while ranks train."""
    session = story.process.session
    assert session is not None
    story.tokens.append((session / "token").read_bytes())
    starts = len(events(story.paths, "first-step"))
    story.wait_for("first-step", starts + 1)
    story.end("USR2", "run", "mid-step")
    story.stopped = {"state": read_status(story.paths).state, "locked": story.paths.lock.exists()}
    story.stopped["checkpoints"] = {
        job: int(max(story.paths.checkpoints(job).glob("[0-9]*")).stem)
        for job in JOBS
        if story.paths.checkpoints(job).is_dir()
    }


def interrupt_twice(story: Story) -> None:
    """Send two Ctrl-C: the second ends the command at once."""
    runs, stops = len(events(story.paths, "run-start")), len(events(story.paths, "stopping"))
    story.process.launch()
    story.wait_for("run-start", runs + 1)
    process = story.process.process
    assert process is not None
    os.killpg(process.pid, signal.SIGINT)
    story.wait_for("stopping", stops + 1)
    os.killpg(process.pid, signal.SIGINT)
    story.endings["INT INT"] = story.process.end()
    story.orphans += [str(p) for folder in story.process.sessions for p in of_session(folder)]


def test_masks_weights_metrics_and_curves_are_an_undisturbed_runs(
    story: Story, undisturbed: tuple[RunPaths, str]
) -> None:
    assert differences(undisturbed[0], story.paths) == []


def test_curves_have_each_point_once(story: Story) -> None:
    found = curves(story.paths)
    assert len(found) > 50
    for key, points in found.items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), key
    assert [step for step, _ in found["jobs/00", "train/loss"]] == [2, 4, 6, 8, 10]


def test_a_dozen_different_faults_fired(story: Story) -> None:
    assert len({(fault.signal, fault.target, fault.point) for fault in story.struck}) >= 12
    assert all(record["victims"] for record in story.records.values())


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("KILL run made, no order yet", KILLED, ""),
        ("KILL mid-write of init", AGAIN, "the coordinator died ("),
        ("USR2 run", AGAIN, "stopped by SIGUSR2; "),
        ("STOP coordinator", AGAIN, "the coordinator does not answer; "),
        ("KILL raylet", AGAIN, ""),
        ("KILL gcs_server", AGAIN, ""),
        ("KILL head", AGAIN, "the process that holds Ray died (exit code -9)"),
        ("INT INT", INTERRUPTED, "interrupted; the same command goes on"),
        ("TERM run", AGAIN, "stopped by SIGTERM; "),
    ],
)
def test_an_end_is_one_line_and_an_exit_code(story: Story, fault: str, code: int, words: str) -> None:
    found, said = story.endings[fault]
    assert found == code, said
    assert said.startswith(words)
    if code == AGAIN:
        assert said.count("\n") == 1
        assert "of 8 jobs are done" in said
        assert said.endswith("the same command goes on from there\n")


def test_a_death_of_rays_head_names_what_died(story: Story) -> None:
    """Either the process itself is seen first, or the coordinator that ends with it."""
    assert story.endings["KILL gcs_server"][1].startswith(("Ray's ", "the coordinator died", "the process"))
    assert story.endings["KILL raylet"][1].startswith(("Ray's raylet", "the coordinator died", "the process"))


def test_ranks_come_back_by_themselves(story: Story) -> None:
    assert len(events(story.paths, "lane-restart")) == 4
    (hang,) = events(story.paths, "hang")
    (victim,) = story.records["STOP evaluation"]["victims"]
    assert f"(process {victim['pid']}," in hang["message"]


def test_a_second_starter_is_refused(story: Story) -> None:
    assert story.second is not None
    assert story.second.returncode == 2
    assert "this run is alive, held by process " in story.second.stderr
    assert story.second.stderr.count("\n") == 1


def test_a_run_whose_process_was_killed_is_taken_over(story: Story) -> None:
    (victim,) = story.records["KILL run made, no order yet"]["victims"]
    (taken, *_) = events(story.paths, "taken-over")
    assert taken["message"].startswith(f"from process {victim['pid']} on ")
    assert taken["message"].endswith(", which has ended")


def test_a_stopped_run_says_where_it_goes_on(story: Story) -> None:
    _, said = story.endings["USR2 run"]
    assert (story.stopped["state"], story.stopped["locked"]) == ("stopped", False)
    for job, step in story.stopped["checkpoints"].items():
        assert f"job {job} from step {step}" in said
        after = [event for event in events(story.paths, "job-start") if event["job"] == job]
        assert step in [event["step"] for event in after]


def test_finished_jobs_are_not_trained_again(story: Story) -> None:
    assert 0 < len(story.finished) < len(JOBS)
    assert {path: path.stat().st_mtime for path in story.finished} == story.finished


def test_nothing_is_left_behind(story: Story) -> None:
    assert story.orphans == []
    assert len(story.process.sessions) >= len(story.endings)
    assert left_behind(story.paths, story.process.sessions) == []


def test_a_token_is_in_no_file(story: Story) -> None:
    files = [path for path in story.paths.root.rglob("*") if path.is_file()]
    assert not [path for path in files for token in story.tokens if token in path.read_bytes()]


class TestBuild:
    """A data set that is built again after a fault is the same."""

    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            (Fault(0, "KILL", "itself", "mid-build, in a worker"), 2),
            (Fault(0, "TERM", "itself", "built, not published"), -signal.SIGTERM),
        ],
    )
    def test_it_is_the_same(self, tmp_path: Path, fault: Fault, code: int) -> None:
        images, out = image_folder(tmp_path / "images"), tmp_path / "out" / "data"
        arguments = [sys.executable, "-m", "jobs.cli", "data", "build", str(images), "--out", str(out)]
        with command(arguments, Chaos(tmp_path / "chaos"), ends=(0, code)) as process:
            process.strike(fault)
            assert process.end()[0] == code
            process.finish()
        expected = build(images, tmp_path / "expected", BuildOptions(workers=1))
        assert Dataset.load(out).digest == expected.digest
        assert [path.name for path in out.parent.iterdir()] == ["data"]


class TestHarness:
    """A fault that cannot strike is never mistaken for a recovery."""

    @pytest.mark.parametrize("name", sorted(functions()))
    def test_every_point_is_in_the_code(self, name: str) -> None:
        owner, attribute = find(importlib.import_module(name.partition(":")[0]), name)
        assert callable(getattr(owner, attribute))

    def test_a_name_that_is_gone_is_an_error(self) -> None:
        with pytest.raises(AttributeError):
            find(importlib.import_module("distlth.imp"), "distlth.imp:no_such_function")

    def test_a_fault_that_does_not_fire_is_an_error(self, tmp_path: Path) -> None:
        with (
            command([sys.executable, "-c", "pass"], Chaos(tmp_path)) as process,
            pytest.raises(LostError, match="did not fire"),
        ):
            process.strike(Fault(0, "KILL", "itself", "mid-step"))

    def test_an_exit_code_that_means_no_recovery_is_an_error(self, tmp_path: Path) -> None:
        with (
            command([sys.executable, "-c", "raise SystemExit(2)"], Chaos(tmp_path)) as process,
            pytest.raises(LostError, match="exit code 2"),
        ):
            process.finish()

    def test_a_hook_that_breaks_is_an_error(self, tmp_path: Path) -> None:
        chaos = Chaos(tmp_path)
        source = "import distlth.run.store as s; s.check_data(None, '')"
        with (
            command([sys.executable, "-c", source], chaos, ends=(0, 1)) as process,
            pytest.raises(LostError, match="no session"),
        ):
            process.strike(Fault(0, "KILL", "raylet", "ranks compare data"))

    def test_a_file_is_cut_only_under_a_writer_that_dies(self) -> None:
        with pytest.raises(AssertionError):
            Fault(0, "KILL", "raylet", "mid-checkpoint-write")

    def test_points_have_names_of_their_own(self) -> None:
        assert all(point.name == name for name, point in POINTS.items())
        assert len(POINTS) >= 30
