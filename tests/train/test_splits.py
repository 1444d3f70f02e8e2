"""Three splits: choices on val, results on test, and the best epoch on val where that is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.data.load.loader import EvalLoader
from distlth.data.pack.build import BuildOptions, build
from distlth.export.source import load_source
from distlth.files import load_tensors, tensors_digest, write_text
from distlth.models import build as build_model
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths
from distlth.run.results import FORMER_NAMES, JobResult, load_metrics
from distlth.run.store import RunRecord
from distlth.run.tickets import save_structured
from distlth.ticket import Structured
from distlth.train.checkpoint import newest_state
from distlth.train.evaluate import Evaluation, evaluate
from tests.small_job import WORLD, train
from tests.tiny_run import make_result


@pytest.fixture(scope="module")
def parted(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The digits with three splits: val is drawn from train, and their own val is test."""
    images = digits.path.parent / "images"
    return build(
        images, tmp_path_factory.mktemp("parted") / "packed", BuildOptions(workers=1, val_images=100)
    )


def config_of(quickstart: Path, data: Dataset, *overrides: str) -> RunConfig:
    asked = ["cluster.workers=1", "train.epochs=3", "train.batch_size=120", "prune.rewind_epoch=1"]
    asked += ["train.eval_every=1", "checkpoint.every_steps=4", "data.resolution=8"]
    return load_config(quickstart, [*asked, f"data.path={data.path}", *overrides])


FORMER = {new: old for old, new in FORMER_NAMES.items()}

# Weights shrink to nothing within an epoch: each epoch takes all images for one class, and the first is best.
COLLAPSED = ("train.lr=0.5", "train.weight_decay=0.9", "train.decay_norm_and_bias=true")


class StoppedError(Exception):
    """Thrown into a job to end it."""


def stopping(at: str) -> Callable[..., None]:
    def note(event: str, **_details: Any) -> None:
        if event == at:
            raise StoppedError

    return note


def scores(file: Path, data: Dataset, split: str) -> Evaluation:
    """Evaluate stored weights on a split."""
    model = build_model("resnet20", data.num_classes, seed=0, stem="cifar").to(
        memory_format=torch.channels_last
    )
    model.load_state_dict(load_tensors(file)[0])
    whole: dict[str, Any] = {"split": split, "batch_size": 120, "resolution": 8, "ratio": 1.0}
    with closing(EvalLoader(data, threads=1, **whole)) as loader:
        return evaluate(model, loader, WORLD, torch.autocast("cpu", enabled=False))


@pytest.mark.parametrize("report", ["last", "best-val"])
def test_results_are_reported_on_test_where_there_is_one(
    parted: Dataset, quickstart: Path, tmp_path: Path, report: str
) -> None:
    run = RunPaths(tmp_path / "run")
    asked = config_of(quickstart, parted, "train.eval_every=2", f"train.report_epoch={report}")
    result, paths = train(asked, parted, run), run.job("00")
    file = paths.weights if report == "last" else paths.best
    found = {split: scores(file, parted, split) for split in ("val", "test")}
    for split, evaluation in found.items():
        assert {name: getattr(result, name) for name in evaluation.scores(split)} == evaluation.scores(split)
    assert (found["val"].count, found["test"].count) == (100, 360)
    assert (result.split, result.top1, result.top5) == ("test", found["test"].top1, found["test"].top5)
    first, *tops = [line.val_top1 for line in load_metrics(paths)]
    assert first is None
    if report == "last":
        assert (result.val_top1, result.best_epoch, paths.best.exists()) == (tops[1], None, False)
    else:
        assert result.val_top1 == max(top or 0.0 for top in tops) == tops[(result.best_epoch or 0) - 2]
        assert result.best_digest == tensors_digest(load_tensors(paths.best)[0])
    assert JobResult.load(paths) == result


def test_the_best_epoch_on_val_is_kept_through_a_resume(
    parted: Dataset, quickstart: Path, tmp_path: Path
) -> None:
    """Of equal epochs the first is best; what is pruned is the last."""
    config = config_of(quickstart, parted, "train.report_epoch=best-val", *COLLAPSED)
    whole, parts = RunPaths(tmp_path / "whole"), RunPaths(tmp_path / "parts")
    result = train(config, parted, whole)
    first, *later = [line.val_top1 or 0.0 for line in load_metrics(whole.job("00"))]
    assert (first >= 0.1, later) == (True, [0.1, 0.1])
    assert (result.best_epoch, result.best_digest != result.weights_digest) == (1, True)
    with pytest.raises(StoppedError):
        train(config, parted, parts, stopping("last-step"))
    state = newest_state(parts.checkpoints("00"))
    assert state is not None
    assert state.best is not None
    assert (state.step > 20, state.best.epoch, state.best.evaluation.top1) == (True, 0, first)
    resumed = train(config, parted, parts)
    timed = {"seconds": 0.0, "finished": 0.0}
    assert replace(resumed, **timed) == replace(result, **timed)  # type: ignore[arg-type]
    assert parts.job("00").best.read_bytes() == whole.job("00").best.read_bytes()
    assert tensors_digest(load_tensors(whole.job("00").weights)[0]) == result.weights_digest
    exported = load_source(as_run(whole, config, parted), "00")
    assert tensors_digest(exported.model.state_dict()) == result.best_digest
    said = exported.about()["provenance"]
    assert (said["split"], said["top1"], said["weights_digest"]) == ("test", result.top1, result.best_digest)


def as_run(run: RunPaths, config: RunConfig, data: Dataset) -> RunPaths:
    """Add what a run has beside its trained jobs: a job file, and the mask of the first."""
    write_text(run.job_file, RunRecord(config, {}, data.identity, 0.0).to_yaml())
    save_structured(run.job("00"), Structured(Mask.dense({"conv1": (16, 3, 3, 3)})))
    return run


def test_results_of_earlier_versions_are_of_val(tmp_path: Path) -> None:
    """They knew no test split, and did not say val."""
    result, paths = make_result(top1=0.8), RunPaths(tmp_path / "run").job("00")
    result.save(paths)
    stored = json.loads(paths.result.read_text())
    new = [name for name in stored if name.startswith(("test_", "best_"))]
    old = {FORMER.get(name, name): value for name, value in stored.items() if name not in new}
    assert {"top1", "top5", "eval_loss"} < {*old}
    paths.result.write_text(json.dumps(old))
    assert JobResult.load(paths) == result
    assert (result.split, result.top1, result.top5) == ("val", 0.8, 0.99)
    line = {"epoch": 0, "step": 8, "loss": 1.0, "lr": 0.1, "images_per_second": 1.0, "data_wait": 0.0}
    line |= {"seconds": 1.0, "eval_loss": 0.5, "top1": 0.8, "top5": 0.9}
    paths.metrics.write_text(json.dumps(line) + "\n")
    (read,) = load_metrics(paths)
    assert (read.val_loss, read.val_top1, read.val_top5) == (0.5, 0.8, 0.9)
