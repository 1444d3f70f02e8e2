"""A trace of some steps: it is there, it holds these steps, and training is none the wiser."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from distlth.config import RunConfig, load_config
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.experiment import run_experiment
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.train.world import World

SMALL = ("cluster.workers=1", "train.epochs=2", "train.batch_size=240", "data.resolution=8", "prune.rounds=0")


def trained(config: RunConfig) -> tuple[RunPaths, JobResult]:
    run = run_experiment(config, World.current(torch.device("cpu")))
    result = JobResult.load(run.job("00"))
    assert result is not None
    return run, result


def test_the_steps_that_are_asked_for_are_traced_and_no_bit_differs(
    digits: Dataset, quickstart: Path, tmp_path: Path
) -> None:
    where = [
        *SMALL,
        "prune.rewind_epoch=0",
        "prune.branches=[]",
        f"data.path={digits.path}",
        f"runs={tmp_path}",
    ]
    traced, result = trained(
        load_config(quickstart, [*where, "train.profile.first=2", "train.profile.steps=3", "name=traced"])
    )
    plain, other = trained(load_config(quickstart, [*where, "name=plain"]))
    assert result.weights_digest == other.weights_digest
    assert not (plain.root / "profile").exists()
    events = json.loads(gzip.decompress(traced.trace("00", 0).read_bytes()))["traceEvents"]
    names = [str(event.get("name")) for event in events]
    assert [name for name in names if name.startswith("step ")] == ["step 2", "step 3", "step 4"]
    assert sum(name == "aten::convolution" for name in names) >= 3 * 19  # a ResNet-20's
    assert [path.name for path in (traced.root / "profile").iterdir()] == ["00-rank0.json.gz"]


def test_a_rank_that_is_not_there_is_refused(quickstart: Path) -> None:
    with pytest.raises(ConfigError, match=r"no rank 2; the 2 of cluster\.workers are 0 to 1"):
        load_config(quickstart, ["cluster.workers=2", "train.profile.ranks=[0, 2]"])
    with pytest.raises(ConfigError, match="steps"):
        load_config(quickstart, ["train.profile.stepz=3"])
