"""A disk that is full while a job trains: a small file system, or folders without permission."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.files import append_json, read_json_lines
from distlth.models import prunable
from distlth.plan import plan
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, load_metrics
from distlth.ticket import Ticket
from distlth.train.loop import train_job
from distlth.train.trainer import Trainer
from distlth.train.world import World
from tests.disk import Disk


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


def train(config: RunConfig, digits: Dataset, run: RunPaths, note: Any) -> JobResult:
    trainer = Trainer(config, digits, World(0, 1, torch.device("cpu")))
    mask = Mask.dense({conv.name: conv.weight_shape for conv in prunable(trainer.anatomy, "all")})
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    try:
        return train_job(trainer, plan(config)[0], Ticket(mask, weights), run, note)
    finally:
        trainer.close()


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
    expected = train(config, digits, whole, lambda event, **details: None)
    assert (found.weights_digest, found.top1, found.train_loss) == (
        expected.weights_digest,
        expected.top1,
        expected.train_loss,
    )
    assert JobResult.load(run.job("00")) == found
    curves = [[(line.epoch, line.loss) for line in load_metrics(paths.job("00"))] for paths in (run, whole)]
    assert curves[0] == curves[1]
    assert run.seed(0).rewind.read_bytes() == whole.seed(0).rewind.read_bytes()


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
