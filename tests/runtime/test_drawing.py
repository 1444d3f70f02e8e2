"""What a coordinator draws of jobs that were done before it started."""

from __future__ import annotations

from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from cluster.runtime.coordinator import draw_mask
from distlth.config.read import load_config
from distlth.plan import plan
from distlth.prune.mask import Mask
from distlth.report.board import RunBoard
from distlth.run.paths import RunPaths
from distlth.run.tickets import save_structured
from distlth.ticket import Structured


def test_a_mask_that_was_not_drawn_is_drawn_from_its_files_once(tmp_path: Path, quickstart: Path) -> None:
    run = RunPaths(tmp_path)
    job = next(job for job in plan(load_config(quickstart)) if job.id == "01/refill")
    dense = Mask.dense({"conv1": (8, 2, 3, 3)})
    half = dense.replace({"conv1": torch.arange(8).lt(4)[:, None, None, None].expand(8, 2, 3, 3)})
    assert job.parent is not None
    save_structured(run.job(job.parent), Structured(dense))
    save_structured(run.job(job.id), Structured(half))
    for _ in range(2):
        board = RunBoard(run)
        draw_mask(board, run, job)
        board.close()
    (file,) = (run.tensorboard / "masks" / "refill").iterdir()
    shown = EventAccumulator(str(file)).Reload()
    points = [(each.step, each.value) for each in shown.Scalars("layer_density_by_round/conv1")]
    assert points == [(1, 0.5)]
