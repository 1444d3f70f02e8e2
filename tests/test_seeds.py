"""Several seeds in one run: each as if it had a run of its own."""

from __future__ import annotations

from pathlib import Path

import torch

from distlth.config import load_config
from distlth.data.dataset import Dataset
from distlth.experiment import run_experiment
from distlth.facts.rows import read_results
from distlth.facts.status import read_status
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.train.world import World

SEED = ("00", "01", "01/refill")


def run(quickstart: Path, *overrides: str) -> RunPaths:
    small = ["cluster.workers=1", "train.epochs=2", "train.batch_size=240", "data.resolution=8"]
    prune = ["prune.rounds=1", "prune.rewind_epoch=0", "prune.branches=[{method: refill}]"]
    config = load_config(quickstart, [*small, *prune, *overrides])
    return run_experiment(config, World.current(torch.device("cpu")))


def digests(paths: RunPaths, prefix: str = "") -> list[tuple[str, str]]:
    found = [JobResult.load(paths.job(prefix + job)) for job in SEED]
    return [(result.mask_digest, result.weights_digest) for result in found if result is not None]


def test_a_seed_that_is_added_to_a_finished_run_has_the_bits_of_a_run_of_its_own(
    digits: Dataset, quickstart: Path, tmp_path: Path
) -> None:
    where = [f"data.path={digits.path}", f"runs={tmp_path}"]
    alone = run(quickstart, *where, "name=alone", "seed=7")
    both = run(quickstart, *where, "name=both", "seed=0")
    first = digests(both)
    written = both.job("00").result.stat().st_mtime_ns
    both = run(quickstart, *where, "name=both", "seed=0", "seeds=[0, 7]")
    assert both.job("00").result.stat().st_mtime_ns == written
    assert digests(both) == first
    assert digests(both, "seed7/") == digests(alone) != first

    status = read_status(both)
    assert (status.state, status.done, len(status.jobs)) == ("done", 6, 6)
    rows = read_results(both).rows
    assert [(row.job, row.seed) for row in rows][3:] == [
        ("seed7/00", 7),
        ("seed7/01", 7),
        ("seed7/01/refill", 7),
    ]
    dense, ticket = rows[3], rows[5]
    assert ticket.vs_dense == ticket.top1 - dense.top1
