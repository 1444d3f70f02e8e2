"""One run with a ticket of each kind that no other file trains, on one rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.experiment import run_experiment
from distlth.run.paths import RunPaths
from tests.small_job import WORLD

BRANCHES = (
    "[{method: admm}, {method: snip}, {method: one-shot}, {method: random}, {method: grasp}, "
    "{method: synflow}, {method: slimming}, {method: magnitude-channels}, "
    "{method: random-channels}, {method: random-blocks}, {method: regroup, source: snip}, "
    "{method: refill, name: again, weights: reinit}, {method: nm, pattern: 2:4, within: refill}]"
)


@pytest.fixture(scope="session")
def config(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A round at 30% density, two epochs of three steps a job."""
    overrides = [
        *("cluster.workers=1", "train.epochs=2", "train.batch_size=480", "data.resolution=8"),
        *("prune.rounds=1", "prune.rate=0.7", "prune.rewind_epoch=1", f"prune.branches={BRANCHES}"),
        *("prune.calibration_images=100", f"data.path={digits.path}", "name=run"),
        f"runs={tmp_path_factory.mktemp('runs')}",
    ]
    recipe = Path(__file__).parent.parent.parent / "jobs" / "recipes" / "quickstart.yaml"
    return load_config(recipe, overrides)


@pytest.fixture(scope="session")
def finished(config: RunConfig) -> RunPaths:
    """The run, with all of its jobs done."""
    return run_experiment(config, WORLD)
