"""Whole runs through the command line: real Ray, real ranks, real kills."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from distlth.data.dataset import Dataset
from distlth.facts.status import read_status
from distlth.files import load_tensors
from distlth.prune.channel_counts import num_channels
from distlth.prune.magnitude import planned_kept
from distlth.run.paths import RunPaths
from distlth.run.results import load_metrics
from distlth.run.tickets import load_structured
from tests.chaos.harness import Chaos, command, events
from tests.chaos.hook import Fault
from tests.disk import Disk
from tests.injected import inject
from tests.small_run import JOBS, TIMEOUT_SECONDS, results, run, small_run


class TestUndisturbed:
    def test_every_job_ends_with_what_the_method_says(self, undisturbed: tuple[RunPaths, str]) -> None:
        paths, _ = undisturbed
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

    def test_branches_structure_their_rounds_mask(self, undisturbed: tuple[RunPaths, str]) -> None:
        paths, _ = undisturbed
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

    def test_removed_channels_have_no_batch_norm(self, undisturbed: tuple[RunPaths, str]) -> None:
        paths, _ = undisturbed
        structured = load_structured(paths.job("02/refill"))
        assert structured is not None
        weights, _ = load_tensors(paths.job("02/refill").weights)
        gone = structured.mask.empty_channels("layer1.0.conv1")
        assert gone.any()
        for part in ("weight", "bias"):
            assert not weights[f"layer1.0.bn1.{part}"][gone].any()
            assert weights[f"layer1.0.bn1.{part}"][~gone].all()

    def test_one_lane_stood_through_the_whole_run(self, undisturbed: tuple[RunPaths, str]) -> None:
        paths, _ = undisturbed
        assert len(events(paths, "job-done")) == len(JOBS)
        assert not events(paths, "lane-restart")
        assert len(events(paths, "run-done")) == 1

    def test_the_command_prints_the_table_and_where_files_are(
        self, undisturbed: tuple[RunPaths, str]
    ) -> None:
        paths, printed = undisturbed
        report = paths.report.results_table.read_text()
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
            "alive",
            "MACs",
            str(paths.report.page),
        ):
            assert word in printed
        assert {file.name for file in paths.report.root.iterdir()} == {
            *("report.html", "results.md", "results.csv", "points.csv"),
            *("accuracy.png", "accuracy-alive.png", "accuracy-macs.png", "masks.png"),
        }

    def test_status_reads_the_directory_alone(self, undisturbed: tuple[RunPaths, str]) -> None:
        paths, _ = undisturbed
        status = json.loads(read_status(paths).to_json())
        assert (status["state"], status["jobs_done"], status["jobs_total"]) == ("done", 8, 8)

    def test_nothing_is_left_that_others_could_write(self, undisturbed: tuple[RunPaths, str]) -> None:
        paths, _ = undisturbed
        assert not [path for path in paths.root.rglob("*") if path.stat().st_mode & 0o002]

    def test_a_finished_run_is_not_repeated(self, undisturbed: tuple[RunPaths, str], digits: Dataset) -> None:
        paths, _ = undisturbed
        before = paths.log.read_bytes()
        ended = run(digits, paths.root.parent)
        assert ended.returncode == 0
        assert "refill+" in ended.stdout
        assert paths.log.read_bytes() == before

    def test_a_changed_job_is_refused_by_name(
        self, undisturbed: tuple[RunPaths, str], digits: Dataset
    ) -> None:
        paths, _ = undisturbed
        ended = run(digits, paths.root.parent, "train.lr=0.2", "cluster.retries=7")
        assert ended.returncode == 2
        assert "train.lr: 0.1 -> 0.2" in ended.stderr
        assert "retries" not in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_it_resumes_with_another_number_of_ranks_and_says_so(digits: Dataset, tmp_path: Path) -> None:
    """From two ranks to three in mid-epoch: the same global batches in other parts, and not the same bits."""
    paths = RunPaths(tmp_path / "run")
    one_job = (
        *("prune.rounds=0", "prune.branches=[]", "train.epochs=10", "train.eval_every=10"),
        "train.batch_size=239",  # parts of 120 and 119 images, then of 80, 80 and 79
    )
    with command(small_run(digits, tmp_path, *one_job), Chaos(tmp_path / "chaos")) as process:
        process.strike(Fault(1, "KILL", "run", "checkpoint, old ones there"))
        process.end()
    ended = run(digits, tmp_path, *one_job, "cluster.workers=3")
    assert ended.returncode == 0, ended.stderr
    (changed,) = events(paths, "changed")
    assert (changed["changes"], changed["same_bits"]) == ("cluster.workers: 2 -> 3", False)
    steps = [event["step"] for event in events(paths, "job-start")]
    assert steps[0] == 0
    assert steps[-1] in range(2, 60)
    found = results(paths, ["00"])["00"]
    assert (found.world_size, found.steps) == (3, 60)
    assert [line.step for line in load_metrics(paths.job("00"))] == list(range(6, 61, 6))
    assert "cluster.workers  2 -> 3" in ended.stdout.replace(": ", "  ")


def test_two_lanes_share_the_jobs_of_an_inline_run(digits: Dataset, tmp_path: Path) -> None:
    lanes = ("prune.rounds=1", "cluster.workers=1", "cluster.lanes=2")
    inline = ("prune.mode=inline", "prune.branches=[{method: regroup}]")
    with open("/dev/full", "w") as full:  # a log on a full disk, which ends nothing
        arguments = small_run(digits, tmp_path, *inline, *lanes)
        ended = subprocess.run(arguments, stdout=full, stderr=full, timeout=TIMEOUT_SECONDS, check=False)
    assert ended.returncode == 0
    paths = RunPaths(tmp_path / "run")
    found = results(paths, ["00", "01"])
    assert found["01"].method == "imp-regroup"
    structured = load_structured(paths.job("01"))
    assert structured is not None
    assert structured.blocks


def test_a_finished_run_on_a_read_only_disk_shows_its_results(
    undisturbed: tuple[RunPaths, str], digits: Dataset, disk: Disk
) -> None:
    shutil.copytree(undisturbed[0].root, disk.folder / "run")  # another place: a change that is recorded
    shutil.rmtree(disk.folder / "run" / "report")
    with disk.read_only():
        ended = run(digits, disk.folder)
    assert ended.returncode == 0, ended.stderr
    recorded, report = ended.stderr.splitlines()
    assert "job.yaml: what has changed cannot be recorded (" in recorded
    assert report.startswith("the report cannot be written (")
    assert ended.stdout.splitlines()[:-3] == undisturbed[1].splitlines()[-len(ended.stdout.splitlines()) : -3]


def test_a_round_that_diverges_ends_the_run_with_one_line(digits: Dataset, tmp_path: Path) -> None:
    ended = run(digits, tmp_path, "train.lr=1e30", "cluster.workers=1")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: job 00: the loss was not finite at step")
    assert "7 jobs that are made from it were left out" in ended.stderr
    assert ended.stderr.count("\n") == 1
    status = read_status(RunPaths(tmp_path / "run"))
    assert status.state == "failed"
    assert [job.state for job in status.jobs] == ["diverged", *["left out"] * 7]


DIVERGES = """
usual = module.Trainer.learning_rate
def learning_rate(self):
    return 1e30 if self.job.id == "01/refill" else usual(self)
module.Trainer.learning_rate = learning_rate
"""


def test_a_branch_that_diverges_is_a_result_and_a_changed_job_opens_it_again(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, jobs = RunPaths(tmp_path / "run"), ("prune.rounds=1", "prune.branches=[{method: refill}]")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", inject(tmp_path / "inject", "distlth.train.trainer", DIVERGES))
        ended = run(digits, tmp_path, *jobs)
    assert ended.returncode == 0, ended.stderr
    assert "diverged: job 01/refill: the loss was not finite at step" in ended.stdout
    assert "- job 01/refill: the loss was not finite at step" in paths.report.results_table.read_text()
    status = read_status(paths)
    assert (status.state, [job.state for job in status.jobs]) == ("done", ["done", "done", "diverged"])
    assert not events(paths, "lane-restart")

    before = paths.log.read_bytes()
    again = run(digits, tmp_path, *jobs)
    assert (again.returncode, paths.log.read_bytes()) == (0, before)
    changed = run(digits, tmp_path, *jobs, "train.lr=0.05", "--allow-change", "train.lr")
    assert changed.returncode == 0, changed.stderr
    assert [job.state for job in read_status(paths).jobs] == ["done"] * 3
    assert "diverged" not in changed.stdout


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
