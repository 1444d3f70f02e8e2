"""A disk that is full while a job trains: a small file system, or folders without permission."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.files import append_json, read_json_lines
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, load_metrics
from tests.disk import Disk
from tests.small_job import train


@pytest.fixture
def config(quickstart: Path, digits: Dataset) -> RunConfig:
    overrides = ["cluster.workers=1", "train.epochs=4", "train.batch_size=160", "data.resolution=8"]
    overrides += [
        "prune.rewind_epoch=1",
        "checkpoint.every_steps=3",
        "log_every=2",
        f"data.path={digits.path}",
    ]
    return load_config(quickstart, overrides)


def test_training_goes_on_while_the_disk_is_full_and_nothing_is_lost(
    config: RunConfig, digits: Dataset, tmp_path: Path, disk: Disk
) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []
    run = RunPaths(disk.folder / "run")

    def note(event: str, **details: Any) -> None:
        seen.append((event, details))
        kinds = [kind for kind, _ in seen]
        if event == "first-step" or (event == "last-step" and "waiting-for-disk" not in kinds):
            disk.fill()
        if kinds.count("checkpoint-failed") == 2 and event == "checkpoint-failed":
            disk.free()
        if kinds.count("waiting-for-disk") == 2 and event == "waiting-for-disk":
            disk.free()

    found = train(config, digits, run, note)
    kinds = [kind for kind, _ in seen]
    assert (kinds.count("checkpoint-failed"), kinds.count("waiting-for-disk")) == (2, 2)
    failed = dict(seen)["checkpoint-failed"]
    assert failed["job"] == "00"
    assert failed["step"] == 6
    assert "No space left" in failed["error"] or "Permission denied" in failed["error"]

    whole = RunPaths(tmp_path / "whole")
    expected = train(config, digits, whole)
    assert (found.weights_digest, found.top1, found.train_loss) == (
        expected.weights_digest,
        expected.top1,
        expected.train_loss,
    )
    assert JobResult.load(run.job("00")) == found
    curves = [[(line.epoch, line.loss) for line in load_metrics(paths.job("00"))] for paths in (run, whole)]
    assert curves[0] == curves[1]
    assert run.seed(0).rewind.read_bytes() == whole.seed(0).rewind.read_bytes()


RANK = """
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.run.paths import RunPaths
from distlth.train.warm import WarmRank
from distlth.train.world import World
from distlth.plan import plan
from tests.small_job import train_on

job_file, data, run, folder, rank, *overrides = sys.argv[1:]
folder = Path(folder)
torch.set_num_threads(1)
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=2, timeout=timedelta(seconds=60)
)

def note(event, **details):
    with open(folder / "events", "a") as file:
        print(event, file=file)

config = load_config(Path(job_file), overrides)
with closing(WarmRank(config, Dataset.load(Path(data)), World.current(torch.device("cpu")))) as warm:
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=3), dist.group.WORLD)
    print(train_on(warm, plan(config)[0], RunPaths(Path(run)), note).weights_digest)
"""


def test_ranks_do_not_wait_in_a_collective_for_a_disk_that_is_full_longer_than_that_may_last(
    config: RunConfig, quickstart: Path, digits: Dataset, tmp_path: Path, disk: Disk
) -> None:
    """The rewind point does not fit from the first step on; the result comes long after the other rank."""
    run, folder = RunPaths(disk.folder / "run"), tmp_path / "ranks"
    for path in (run.root, folder):
        path.mkdir()
    disk.fill()
    options = [f"data.path={digits.path}", "cluster.workers=2", "train.epochs=2", "train.batch_size=160"]
    options += ["data.resolution=8", "prune.rewind_epoch=1", "log_every=2", "checkpoint.every_steps=100"]
    places = [str(quickstart), str(digits.path), str(run.root), str(folder)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *places, str(rank), *options], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        first, _ = ranks[1].communicate(timeout=120)
        assert ranks[1].returncode == 0
        time.sleep(4)  # longer than any collective
        assert ranks[0].poll() is None
        disk.free()
        second, _ = ranks[0].communicate(timeout=120)
    finally:
        for process in ranks:
            process.kill()
    assert (ranks[0].returncode, first) == (0, second)
    assert "waiting-for-disk" in (folder / "events").read_text().split()
    assert JobResult.load(run.job("00")) is not None
    assert run.seed(0).rewind.exists()


def test_a_line_is_appended_whole_or_not_at_all(disk: Disk) -> None:
    path = disk.folder / "log.jsonl"
    append_json(path, {"n": 0})
    disk.fill()

    def append_many() -> None:
        for n in range(1, 10_000):
            append_json(path, {"n": n, "text": "x" * 100})

    if os.geteuid() == 0:  # a file that is there can be appended to without permission for its folder
        with pytest.raises(OSError, match="No space left"):
            append_many()
    disk.free()
    append_json(path, {"n": "last"})
    lines = read_json_lines(path)
    assert [line["n"] for line in lines] == [*range(len(lines) - 1), "last"]
