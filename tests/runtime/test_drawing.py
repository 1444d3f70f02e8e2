"""What a coordinator draws: in the order of rounds, and of jobs that were done before it started."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from cluster.runtime.coordinator import Coordinator, draw_mask
from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.errors import UserError
from distlth.plan import Job, plan
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


@pytest.mark.parametrize("fails", [False, True])
def test_a_curves_rounds_are_drawn_in_their_order(
    fails: bool, tmp_path: Path, quickstart: Path, digits: Dataset
) -> None:
    """Though a later one's ticket is made first; one that cannot be made holds up none."""
    config = load_config(quickstart, [f"data.path={digits.path}"])
    jobs = {job.id: job for job in plan(config)}
    made = SimpleNamespace(
        assignment=None, parent_mask=None, structured=SimpleNamespace(mask=None, blocks={})
    )
    drawn: list[str] = []

    def make(job: Job) -> SimpleNamespace:
        if job.id == "01/regroup":
            time.sleep(0.3)
            if fails:
                raise UserError("it cannot be made")
        return made

    async def make_both() -> list[str]:
        coordinator = Coordinator.__ray_metadata__.modified_class(  # type: ignore[attr-defined]
            config, RunPaths(tmp_path)
        )
        coordinator.maker = SimpleNamespace(make=make)
        coordinator.board = SimpleNamespace(mask=lambda job, *_: drawn.append(job.id))
        started = [jobs["01/regroup"], jobs["02/regroup"], jobs["02/refill"]]
        coordinator.schedule = SimpleNamespace(
            jobs=list(jobs.values()),
            start_making=lambda: started,
            offer=lambda _: None,
            fail=lambda _: False,
        )
        coordinator.caught_up.set()
        coordinator.make_tickets()
        await asyncio.gather(*coordinator.background)
        return drawn

    expected = ["02/refill", *([] if fails else ["01/regroup"]), "02/regroup"]
    assert asyncio.run(make_both()) == expected
