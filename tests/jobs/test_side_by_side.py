"""Seeds side by side: the script of Fashion-MNIST's results, in miniature, and what stops it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distlth.errors import DataError
from distlth.plan import plan
from distlth.run.paths import RunPaths
from distlth.run.results import load_results
from distlth.run.store import load_record
from jobs.idx_subset import write_subset
from jobs.side_by_side import SeedRun, main

ROOT = Path(__file__).parent.parent.parent
SMALL = (
    *("train.epochs=2", "train.batch_size=20", "train.lr=0.01", "train.schedule.warmup_epochs=0"),
    *("data.resolution=12", "prune.rounds=1", "prune.branches=[{method: refill}]"),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDX files of 90 + 20 images of 12 x 12 pixels, whose brightness is their class."""
    folder, rng = tmp_path_factory.mktemp("idx"), np.random.default_rng(0)
    for split, count in (("train", 90), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 3
        images = (80 * labels[:, None, None] + rng.integers(0, 60, (count, 12, 12))).astype(np.uint8)
        sizes = struct.pack(">4i", 0x803, count, 12, 12), struct.pack(">2i", 0x801, count)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(sizes[0] + images.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(sizes[1] + labels.tobytes())
    return folder


def test_a_subset_has_the_first_images_of_each_class(source: Path, tmp_path: Path) -> None:
    assert write_subset(source, tmp_path / "part", 4) == 12
    labels = (tmp_path / "part" / "train-labels-idx1-ubyte").read_bytes()[8:]
    assert labels == bytes([0, 1, 2] * 4)
    whole = (source / "train-images-idx3-ubyte").read_bytes()
    assert (tmp_path / "part" / "train-images-idx3-ubyte").read_bytes()[16:] == whole[16 : 16 + 12 * 144]
    assert write_subset(source, tmp_path / "part", 4) == 0
    with pytest.raises(DataError, match=r"per-class 31: expected 1\.\.30"):
        write_subset(source, tmp_path / "other", 31)


def test_the_script_trains_two_seeds_and_writes_their_table(source: Path, tmp_path: Path) -> None:
    """Started again after its table, it trains what is new alone."""
    script = ["bash", str(ROOT / "docs" / "results" / "fashion-mnist" / "run.sh"), str(source), "gpu"]
    environment = {**os.environ, "VENV": sys.prefix, "OUT": str(tmp_path), "SEEDS": "0 1", "PROCESSES": "2"}
    ended = subprocess.run(
        [*script, *SMALL, "cluster.device=cpu", "train.amp=off"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all done" in ended.stdout
    for seed in (0, 1):
        run = RunPaths(tmp_path / "runs-gpu" / f"fashion-mnist-seed{seed}")
        config = load_record(run).config
        assert config.seed == seed
        assert set(load_results(run, plan(config))) == {"00", "01", "01/refill"}
        assert SeedRun(config, plan(config)).startable() == []
    report = tmp_path / "report-gpu"
    assert "refill" in (report / "results.md").read_text()
    assert len((report / "results.csv").read_text().splitlines()) == 7


def test_what_a_user_gets_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(ROOT / "jobs" / "recipes" / "fashion-mnist.yaml")
    runs = f"runs={tmp_path}"
    assert main([recipe, runs, "--processes", "0"]) == 2
    assert main([recipe, runs, "cluster.workers=2", "train.cuda_graph=false"]) == 2
    said = capsys.readouterr().err
    assert "--processes: expected at least 1, got 0" in said
    assert "side by side each job has one rank, not 2" in said
