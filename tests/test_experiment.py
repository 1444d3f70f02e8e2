"""The sequential experiment is the oracle: lanes under Ray end with the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from distlth.data.dataset import Dataset
from distlth.facts.compare import compare_runs
from distlth.run.paths import RunPaths
from tests.small_run import JOBS, OVERRIDES

RANKS = 2
ROOT = Path(__file__).parent.parent

# Each rank is a process of its own, as under Ray: one core, gloo, rendezvous through a file.
RANKS_OF_A_RUN = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from distlth.config import load_config
from distlth.experiment import run_experiment
from distlth.train.world import World
from tests.forked import run_ranks

def train(rank):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=int(size))
    run_experiment(load_config(Path(recipe), overrides), World.current(torch.device("cpu")))

size, store, recipe, *overrides = sys.argv[1:]
sys.exit(run_ranks(train, int(size)))
"""


def test_the_coordinator_ends_with_the_bits_of_the_sequential_experiment(
    digits: Dataset, undisturbed: tuple[RunPaths, str], quickstart: Path, tmp_path: Path
) -> None:
    overrides = [*OVERRIDES, f"data.path={digits.path}", f"runs={tmp_path}", "name=run"]
    arguments = [str(RANKS), str(tmp_path / "store"), str(quickstart), *overrides]
    command = [sys.executable, "-c", RANKS_OF_A_RUN, *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    comparison = compare_runs(undisturbed[0], RunPaths(tmp_path / "run"))
    assert comparison.first_difference is None, comparison.to_json()
    assert comparison.jobs_compared == len(JOBS)
