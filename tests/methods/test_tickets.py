"""A run with a ticket of each kind: what they keep and train from, and that a resume makes the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from distlth.config.schema import RunConfig
from distlth.experiment import run_experiment
from distlth.facts.compare import compare_runs
from distlth.facts.summary import read_summary
from distlth.files import load_tensors
from distlth.plan import plan
from distlth.report.summary import write_report
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.tickets import load_structured
from tests.small_job import WORLD


def test_all_meet_the_planned_density_and_stand_in_the_report(config: RunConfig, finished: RunPaths) -> None:
    jobs = plan(config)
    results = {job.id: JobResult.load(finished.job(job.id)) for job in jobs}
    for job in jobs:
        result = results[job.id]
        assert result is not None
        assert abs(result.density - job.density) < 0.02, job.id
    summary = read_summary(finished)
    branches = ["admm-training", *(each.label for each in config.prune.branches)]  # `admm` is the first
    assert [row.method for row in summary.results.rows] == ["imp", "imp", *branches]
    assert {layer.method for layer in summary.layers} == {*branches}
    write_report(finished)
    assert "random-blocks" in finished.report.results_table.read_text()


def test_a_reinitialised_ticket_has_the_mask_alone_in_common(config: RunConfig, finished: RunPaths) -> None:
    seed = finished.seed(config.seed)
    (init, _), (other, _) = load_tensors(seed.init), load_tensors(seed.reinit)
    assert init.keys() == other.keys()
    drawn = [name for name, tensor in init.items() if name.endswith("conv1.weight")]
    assert not any(torch.equal(init[name], other[name]) for name in drawn)
    correlation = torch.corrcoef(torch.stack([init[drawn[-1]].flatten(), other[drawn[-1]].flatten()]))[0, 1]
    assert abs(correlation) < 0.1


def test_a_resume_makes_the_same_tickets(config: RunConfig, finished: RunPaths, tmp_path: Path) -> None:
    again = config.model_copy(update={"runs": tmp_path})
    shutil.copytree(finished.root, tmp_path / config.name)
    run = RunPaths(tmp_path / config.name)
    lost = [job.id for job in plan(config) if not job.is_trunk][1:5]  # made from round 0, from round 1, drawn
    for job in (*lost, "01/again"):
        shutil.rmtree(run.job(job).root)
    run.seed(config.seed).reinit.unlink()
    run_experiment(again, WORLD)
    comparison = compare_runs(finished, run)
    assert comparison.first_difference is None, comparison.to_json()
    assert load_structured(run.job("01/random-blocks")) is not None
