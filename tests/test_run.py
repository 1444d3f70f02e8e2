"""Whole runs through the command: real Ray, real ranks, real kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from distlth.data.dataset import Dataset
from distlth.prune.magnitude import planned_kept
from distlth.prune.refill import num_channels
from distlth.report.compare import compare_runs
from distlth.report.status import read_status
from distlth.run.files import load_tensors, read_json_lines
from distlth.run.paths import RunPaths
from distlth.run.result import JobResult, load_metrics
from distlth.run.tickets import load_structured

RECIPE = Path(__file__).parent.parent / "jobs" / "recipes" / "quickstart.yaml"
BRANCHES = "[{method: refill, criterion: l1}, {method: refill, extra: 0.2, rounds: [2]}, {method: regroup}]"
JOBS = ["00", "01", "01/refill", "01/regroup", "02", "02/refill", "02/refill+", "02/regroup"]
DEADLINE_SECONDS = 300.0


def command(digits: Dataset, runs: Path, *more: str) -> list[str]:
    """The quick start made small: 2 ranks, 8 jobs of 12 steps, a checkpoint every 3."""
    overrides = ["train.epochs=2", "train.batch_size=240", "data.resolution=8", "prune.rounds=2"]
    overrides += ["prune.rewind_epoch=1", f"prune.branches={BRANCHES}", "prune.calibration_images=100"]
    overrides += ["checkpoint.every_steps=2", "log_every=2", "cluster.retries=1", "train.eval_every=1"]
    overrides += [f"data.path={digits.path}", f"runs={runs}", "name=run", *more]
    return [sys.executable, "-m", "jobs.cli", "run", str(RECIPE), *overrides]


def run(digits: Dataset, runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(digits, runs, *more), capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )


def events(paths: RunPaths, kind: str) -> list[dict[str, object]]:
    return [event for event in read_json_lines(paths.log) if event["event"] == kind]


def results(paths: RunPaths, jobs: list[str] = JOBS) -> dict[str, JobResult]:
    found = {job: JobResult.load(paths.job(job)) for job in jobs}
    assert all(found.values()), f"not done: {[job for job, result in found.items() if result is None]}"
    return {job: result for job, result in found.items() if result is not None}


@pytest.fixture(scope="module")
def finished(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunPaths, str]:
    """An undisturbed run, and what it printed."""
    runs = tmp_path_factory.mktemp("runs")
    ended = run(digits, runs)
    assert ended.returncode == 0, ended.stderr
    return RunPaths(runs / "run"), ended.stdout


class TestUndisturbed:
    def test_every_job_ends_with_what_the_method_says(self, finished: tuple[RunPaths, str]) -> None:
        paths, _ = finished
        found = results(paths)
        total = found["00"].total
        assert [found[job].kept for job in ("00", "01", "02")] == planned_kept(total, 0.3, 2)
        for job, result in found.items():
            structured = load_structured(paths.job(job))
            assert structured is not None
            assert (structured.mask.digest(), structured.mask.kept) == (result.mask_digest, result.kept)
            weights, _ = load_tensors(paths.job(job).weights)
            assert not any(weights[f"{name}.weight"][~kept].any() for name, kept in structured.mask.items())
            assert result.world_size == 2
            assert [line.step for line in load_metrics(paths.job(job))] == [5, 10]

    def test_branches_structure_their_rounds_mask(self, finished: tuple[RunPaths, str]) -> None:
        paths, _ = finished
        trunk, refill, more, regroup = (
            load_structured(paths.job(job)) for job in ("02", "02/refill", "02/refill+", "02/regroup")
        )
        assert trunk is not None
        assert refill is not None
        assert more is not None
        assert regroup is not None
        for name, kept in trunk.mask.items():
            shape = tuple(kept.shape)
            for ticket, extra in ((refill, 0.0), (more, 0.2)):
                channels = ticket.mask[name].flatten(1)
                full = channels.all(1)
                assert torch.equal(full, channels.any(1))
                assert int(full.sum()) == num_channels(trunk.mask.kept_in(name), shape, extra)
        assert set(regroup.blocks) | set(regroup.ungrouped) == set(trunk.mask)
        assert regroup.mask.density <= trunk.mask.density

    def test_removed_channels_have_no_batch_norm(self, finished: tuple[RunPaths, str]) -> None:
        paths, _ = finished
        structured = load_structured(paths.job("02/refill"))
        assert structured is not None
        weights, _ = load_tensors(paths.job("02/refill").weights)
        gone = structured.mask.empty_channels("layer1.0.conv1")
        assert gone.any()
        for part in ("weight", "bias"):
            assert not weights[f"layer1.0.bn1.{part}"][gone].any()
            assert weights[f"layer1.0.bn1.{part}"][~gone].all()

    def test_one_lane_stood_through_the_whole_run(self, finished: tuple[RunPaths, str]) -> None:
        paths, _ = finished
        assert len(events(paths, "job-done")) == len(JOBS)
        assert not events(paths, "lane-restart")
        assert len(events(paths, "run-done")) == 1

    def test_the_command_prints_the_table_and_where_all_lies(self, finished: tuple[RunPaths, str]) -> None:
        paths, printed = finished
        report = paths.results_table.read_text()
        for result in results(paths).values():
            for digest in (result.mask_digest, result.weights_digest):
                assert digest in printed
                assert digest in report
        for word in (
            "round",
            "method",
            "density",
            "top-1",
            "top-5",
            "time",
            "refill+",
            "regroup",
            str(paths.root),
        ):
            assert word in printed
        assert {file.name for file in paths.report.iterdir()} == {"accuracy.png", "masks.png", "results.md"}

    def test_status_reads_the_directory_alone(self, finished: tuple[RunPaths, str]) -> None:
        paths, _ = finished
        status = json.loads(read_status(paths).to_json())
        assert (status["state"], status["jobs_done"], status["jobs_total"]) == ("done", 8, 8)

    def test_nothing_is_left_that_others_could_write(self, finished: tuple[RunPaths, str]) -> None:
        paths, _ = finished
        assert not [path for path in paths.root.rglob("*") if path.stat().st_mode & 0o002]

    def test_a_finished_run_is_not_repeated(self, finished: tuple[RunPaths, str], digits: Dataset) -> None:
        paths, _ = finished
        before = paths.log.read_bytes()
        ended = run(digits, paths.root.parent)
        assert ended.returncode == 0
        assert "refill+" in ended.stdout
        assert paths.log.read_bytes() == before

    def test_a_changed_job_is_refused_by_name(self, finished: tuple[RunPaths, str], digits: Dataset) -> None:
        paths, _ = finished
        ended = run(digits, paths.root.parent, "train.lr=0.2", "cluster.retries=7")
        assert ended.returncode == 2
        assert "train.lr: 0.1 -> 0.2" in ended.stderr
        assert "retries" not in ended.stderr
        assert ended.stderr.count("\n") == 1


@contextlib.contextmanager
def started(arguments: list[str]) -> Iterator[psutil.Process]:
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.communicate()


def wait_for(what: Callable[[], bool], process: psutil.Process) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        assert process.status() != psutil.STATUS_ZOMBIE, "the run ended before it happened"
        time.sleep(0.05)


def ranks_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("RayTrainWorker" in part for part in child.cmdline()):
                found.append(child)
    return found


def test_killed_twice_it_ends_with_the_same_bits(
    finished: tuple[RunPaths, str], digits: Dataset, tmp_path: Path
) -> None:
    """kill -9 of one rank, then of everything: the lane comes back by itself, the run by the same command."""
    undisturbed, _ = finished
    paths = RunPaths(tmp_path / "run")

    def reached(job: str, step: int) -> Callable[[], bool]:
        return lambda: paths.checkpoint(job, step).exists() or paths.job(job).result.exists()

    with started(command(digits, tmp_path)) as process:
        wait_for(reached("01", 2), process)
        victim = ranks_of(process)[0]
        token = Path(victim.environ()["RAY_AUTH_TOKEN_PATH"]).read_bytes()
        victim.kill()
        assert victim.wait(timeout=10) is not None or not victim.is_running()
        wait_for(lambda: bool(events(paths, "lane-restart")), process)
        wait_for(reached("02", 2), process)
        orphans = process.children(recursive=True)
        ranks = ranks_of(process)
        os.kill(process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(orphans, timeout=30)
        assert set(ranks) & set(orphans)
        assert not alive, f"left behind: {alive}"
    done_before = {
        job: paths.job(job).result.stat().st_mtime for job in JOBS if paths.job(job).result.exists()
    }
    assert 0 < len(done_before) < len(JOBS)

    ended = run(digits, tmp_path)
    assert ended.returncode == 0, ended.stderr
    for job, mtime in done_before.items():
        assert paths.job(job).result.stat().st_mtime == mtime
    assert not [file for file in paths.root.rglob("*") if file.is_file() and token in file.read_bytes()]
    compared = compare_runs(undisturbed, paths)
    assert (compared.first_difference, compared.jobs_compared) == (None, len(JOBS))
    expected, found = results(undisturbed), results(paths)
    for job in JOBS:
        assert found[job].mask_digest == expected[job].mask_digest, job
        assert found[job].weights_digest == expected[job].weights_digest, job
        assert (found[job].top1, found[job].train_loss) == (expected[job].top1, expected[job].train_loss), job


def test_it_goes_on_with_another_number_of_ranks_and_says_so(digits: Dataset, tmp_path: Path) -> None:
    """From the middle of an epoch of two ranks, with one: the same global batches, recorded as not exact."""
    paths = RunPaths(tmp_path / "run")
    one_job = ("prune.rounds=0", "prune.branches=[]", "train.epochs=20", "train.eval_every=20")
    with started(command(digits, tmp_path, *one_job)) as process:
        wait_for(paths.checkpoint("00", 2).exists, process)
        ranks = ranks_of(process)
        os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs(ranks, timeout=30)
    ended = run(digits, tmp_path, *one_job, "cluster.workers=1")
    assert ended.returncode == 0, ended.stderr
    (changed,) = events(paths, "changed")
    assert (changed["changes"], changed["same_bits"]) == ("cluster.workers: 2 -> 1", False)
    steps = [event["step"] for event in events(paths, "job-start")]
    assert steps[0] == 0
    assert steps[-1] in range(2, 100)
    found = results(paths, ["00"])["00"]
    assert (found.world_size, found.steps) == (1, 100)
    assert [line.step for line in load_metrics(paths.job("00"))] == list(range(5, 101, 5))
    assert "cluster.workers  2 -> 1" in ended.stdout.replace(": ", "  ")


def test_two_lanes_share_the_jobs_of_an_inline_run(digits: Dataset, tmp_path: Path) -> None:
    branch = "prune.branches=[{method: regroup}]"
    ended = run(
        digits,
        tmp_path,
        "prune.mode=inline",
        branch,
        "prune.rounds=1",
        "cluster.workers=1",
        "cluster.lanes=2",
    )
    assert ended.returncode == 0, ended.stderr
    paths = RunPaths(tmp_path / "run")
    found = results(paths, ["00", "01"])
    assert found["01"].method == "imp-regroup"
    structured = load_structured(paths.job("01"))
    assert structured is not None
    assert structured.blocks


def test_a_loss_that_is_not_finite_ends_the_run_with_one_line(digits: Dataset, tmp_path: Path) -> None:
    ended = run(digits, tmp_path, "train.lr=1e30", "cluster.workers=1")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: job 00: the loss was not finite at step")
    assert ended.stderr.count("\n") == 1
    assert events(RunPaths(tmp_path / "run"), "failed")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trian.epochs=3", "trian: unknown key; did you mean train?"),
        ("data.path=nowhere", "no such data set"),
        ("model.name=resnet19", "did you mean"),
        ("cluster.device=cuda", "need 2 GPUs"),
        ("train.batch_size=2000", "larger than the train split"),
    ],
)
def test_what_cannot_run_starts_and_writes_nothing(
    digits: Dataset, tmp_path: Path, override: str, words: str
) -> None:
    if override.startswith("cluster.device") and torch.cuda.device_count() >= 2:
        pytest.skip("this machine has the GPUs")
    ended = run(digits, tmp_path, override)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
