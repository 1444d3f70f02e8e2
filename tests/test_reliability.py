"""Whatever dies, the run goes on, by itself or by the same command, to the same bits: real kills."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.coordinator import Coordinator
from cluster.heartbeat import Beat, HangWatch
from distlth.data.dataset import Dataset
from distlth.report.status import read_status
from distlth.run.config import load_config
from distlth.run.files import read_json_lines
from distlth.run.paths import RunPaths
from distlth.run.result import JobResult, load_metrics

RECIPE = Path(__file__).parent.parent / "jobs" / "recipes" / "quickstart.yaml"
JOBS = ["00", "01"]
DEADLINE_SECONDS = 300.0


def command(digits: Dataset, runs: Path, *more: str) -> list[str]:
    """Two ranks, two jobs of 275 steps, a checkpoint every 25."""
    overrides = ["train.epochs=25", "train.batch_size=120", "train.eval_every=5", "data.resolution=8"]
    overrides += ["prune.rounds=1", "prune.rewind_epoch=1", "prune.branches=[]", "cluster.retries=1"]
    overrides += ["checkpoint.every_steps=25", "log_every=10", f"data.path={digits.path}"]
    overrides += [f"runs={runs}", "name=run", *more]
    return [sys.executable, "-m", "jobs.cli", "run", str(RECIPE), *overrides]


@contextlib.contextmanager
def started(arguments: list[str]) -> Iterator[psutil.Popen]:
    """The command in a process group of its own, as a terminal and a batch system start it."""
    process = psutil.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(what: Callable[[], bool], process: psutil.Popen) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        assert process.poll() is None, f"the run ended before it happened: {process.communicate()}"
        time.sleep(0.02)


def processes(process: psutil.Popen, name: str) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(name in part for part in child.cmdline()[:1]):
                found.append(child)
    return found


def events(paths: RunPaths, kind: str) -> list[dict[str, object]]:
    return [event for event in read_json_lines(paths.log) if event["event"] == kind]


def newest_step(paths: RunPaths, job: str) -> int:
    return max((int(path.stem) for path in paths.checkpoints(job).glob("[0-9]*")), default=-1)


def bits(paths: RunPaths) -> list[object]:
    found: list[object] = []
    for job in JOBS:
        result = JobResult.load(paths.job(job))
        assert result is not None
        curve = [(line.epoch, line.loss, line.top1) for line in load_metrics(paths.job(job))]
        found.append((result.mask_digest, result.weights_digest, result.top1, result.train_loss, curve))
    return found


def assert_nothing_is_left(before: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(before, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def undisturbed(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    runs = tmp_path_factory.mktemp("undisturbed")
    ended = subprocess.run(command(digits, runs), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    paths = RunPaths(runs / "run")
    assert not paths.lock.exists()
    return bits(paths)


def test_stopped_lost_and_hung_it_ends_with_the_same_bits(
    undisturbed: list[object], digits: Dataset, tmp_path: Path
) -> None:
    paths = RunPaths(tmp_path / "run")

    # A signal for the whole process group, as batch systems send it, while another starter is refused.
    with started(command(digits, tmp_path)) as process:
        wait_for(lambda: bool(events(paths, "first-step")), process)
        family = process.children(recursive=True)
        second = subprocess.run(command(digits, tmp_path), capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert f"this run is alive, held by process {process.pid} on" in second.stderr
        assert second.stderr.count("\n") == 1
        os.killpg(process.pid, signal.SIGUSR2)
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 75, said
    assert said.startswith("stopped by SIGUSR2; ")
    assert said.count("\n") == 1
    assert_nothing_is_left(family)
    assert not paths.lock.exists()
    assert read_status(paths).state == "stopped"
    job = "00" if newest_step(paths, "00") >= 0 else "01"
    step = newest_step(paths, job)
    assert f"job {job} from step {step}" in said

    # A death of Ray's head; the lock of the run before is gone, its checkpoint is used.
    with started(command(digits, tmp_path)) as process:
        wait_for(lambda: len(events(paths, "job-start")) > 1, process)
        assert events(paths, "job-start")[-1]["step"] == step
        family = process.children(recursive=True)
        processes(process, "gcs_server")[0].kill()
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 75, said
    assert said.startswith("Ray's gcs_server died; ")
    assert said.count("\n") == 1
    assert_nothing_is_left(family)

    # A rank that hangs is killed, and its lane comes back by itself.
    with started(command(digits, tmp_path, "cluster.hang_seconds=4")) as process:
        wait_for(lambda: len(events(paths, "job-start")) > 2, process)
        victim = processes(process, "ray::RayTrainWorker")[1]
        victim.suspend()
        wait_for(lambda: bool(events(paths, "hang")), process)
        assert f"(process {victim.pid}," in str(events(paths, "hang")[0]["message"])
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, said
    assert len(events(paths, "lane-restart")) == 1
    assert bits(paths) == undisturbed


def test_a_coordinator_that_dies_is_one_line_and_ctrl_c_goes_on(digits: Dataset, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    one = command(digits, tmp_path, "cluster.workers=1")
    with started(one) as process:
        wait_for(lambda: bool(events(paths, "lane-start")), process)
        family = process.children(recursive=True)
        processes(process, "ray::Coordinator")[0].kill()
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 75, said
    assert said.startswith("the coordinator died")
    assert said.count("\n") == 1
    assert_nothing_is_left(family)

    with started(one) as process:
        wait_for(lambda: len(events(paths, "run-start")) > 1, process)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130, said
    assert said.startswith("stopped by SIGINT; ")


class TestHangWatch:
    def watch(self, *ranks: int) -> HangWatch:
        watch = HangWatch(hang_seconds=10)
        for rank in ranks:
            watch.hear(0, rank, self.beat(0), now=0)
        return watch

    def beat(self, steps: int, *, in_steps: bool = True) -> Beat:
        return Beat("node", "1 1.0", steps, in_steps)

    def test_the_silent_rank_is_the_one_that_hangs(self) -> None:
        watch = self.watch(0, 1)
        watch.hear(0, 0, self.beat(0), now=9)
        assert not watch.hung(10)
        assert set(watch.hung(11)) == {(0, 1)}

    def test_where_all_beat_and_none_steps_all_hang(self) -> None:
        watch = self.watch(0, 1)
        for now in range(1, 12):
            watch.hear(0, 0, self.beat(0), now)
            watch.hear(0, 1, self.beat(0), now)
        assert set(watch.hung(11)) == {(0, 0), (0, 1)}

    def test_phases_without_steps_may_take_their_time(self) -> None:
        watch = self.watch(0)
        for now in range(1, 100):
            watch.hear(0, 0, self.beat(0, in_steps=False), now)
        assert not watch.hung(100)
        watch.hear(0, 0, self.beat(1), now=105)
        assert not watch.hung(109)

    def test_what_ended_or_starts_again_is_not_missed(self) -> None:
        watch = self.watch(0, 1)
        watch.forget(0, 1)
        assert set(watch.hung(11)) == {(0, 0)}
        watch.forget(0)
        assert not watch.hung(11)


class TestRetries:
    """What counts is deaths without progress between them, not deaths."""

    def deaths(self, digits: Dataset, runs: Path, progress: list[bool]) -> str | None:
        overrides = [f"data.path={digits.path}", f"runs={runs}", "cluster.retries=2"]
        config = load_config(RECIPE, overrides)
        paths = RunPaths(runs / config.name)

        async def die() -> str | None:
            coordinator = Coordinator.__ray_metadata__.modified_class(config, paths)  # type: ignore[attr-defined]
            coordinator.taken["00"] = 0
            for step, moved in enumerate(progress):
                if moved:
                    path = paths.checkpoint("00", step)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                await coordinator.lane_failed(0, "killed")
            error: str | None = coordinator.error
            return error

        return asyncio.run(die())

    def test_deaths_with_progress_never_end_a_run(self, digits: Dataset, tmp_path: Path) -> None:
        assert self.deaths(digits, tmp_path, [True] * 10) is None
        assert self.deaths(digits, tmp_path / "more", [True, False] * 5) is None

    def test_deaths_without_progress_end_it(self, digits: Dataset, tmp_path: Path) -> None:
        error = self.deaths(digits, tmp_path, [True, False, False])
        assert error == "lane 0 died 3 times without progress; the last time: killed"
