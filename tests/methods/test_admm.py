"""ADMM by hand: projection, dual and pull; the training's place in the plan; its resume to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.files import load_tensors
from distlth.methods import Penalty, Source
from distlth.methods.admm import Admm
from distlth.plan import measurements, plan
from distlth.prune.admm import dual, project, target
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths
from distlth.ticket import Trained
from distlth.train.checkpoint import JobState, newest_state
from distlth.train.penalty import Pull
from tests.small_job import ignore, train
from tests.tiny_run import MINIMAL
from tests.train.test_executable import small_network


def test_the_nearest_sparse_weights_are_the_largest_of_all_layers() -> None:
    values = {"a": torch.tensor([[3.0, -1.0]]), "b": torch.tensor([[0.5], [-2.0]])}
    assert {name: near.flatten().tolist() for name, near in project(values, 2).items()} == {
        "a": [3, 0],
        "b": [0, -2],
    }
    assert {name: u.flatten().tolist() for name, u in dual(values, 2).items()} == {
        "a": [0, -1],
        "b": [0.5, 0],
    }
    assert {name: to.flatten().tolist() for name, to in target(values, 2).items()} == {
        "a": [3, 1],
        "b": [-0.5, -2],
    }


def test_the_pull_by_hand() -> None:
    """W = (3, 1, -2) with two to keep, then two updates; U sums up what stays beside Z."""
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    weight = model.get_parameter("0.weight")

    def pulled(pull: Pull) -> list[float]:
        weight.grad = torch.ones(1, 3)
        pull.add_gradients()
        return (weight.grad[0] - 1).tolist()

    def trained(*values: float) -> None:
        with torch.no_grad():
            weight.copy_(torch.tensor([values]))

    trained(3, 1, -2)
    pull = Pull(Penalty(rho=0.5, every=1), model, {"0": torch.ones(1, 3, dtype=torch.bool)}, 2)
    assert pulled(pull) == [0, 0.5, 0]  # Z = (3, 0, -2), U = 0
    trained(3, 0.5, -1)
    pull.end_epoch(0)  # V = W + U = (3, 0.5, -1): Z = (3, 0, -1), U = (0, 0.5, 0)
    assert pulled(pull) == [0, 0.5, 0]
    trained(2.75, 1.25, -1)
    pull.end_epoch(1)  # V = (2.75, 1.75, -1): Z = (2.75, 1.75, 0), U = (0, 0, -1)
    assert pulled(pull) == pytest.approx([0, -0.25, -1])
    state = pull.state()
    trained(1, 1, 1)
    resumed = Pull(Penalty(rho=0.5, every=2), model, {"0": torch.ones(1, 3, dtype=torch.bool)}, 2)
    resumed.restore(state)
    assert pulled(resumed) == pulled(pull)
    resumed.end_epoch(2)  # not one of those
    assert resumed.state()["0"].tolist() == state["0"].tolist()


def test_the_ticket_has_the_largest_weights_of_the_training() -> None:
    mask = Mask.dense({"a": (2, 2)})
    weights = {"a": torch.tensor([[0.1, -3.0], [2.0, 0.0]])}
    made = Admm(method="admm").make(Source(mask, Trained(mask, weights), 2, seed=0)).mask
    assert made["a"].tolist() == [[False, True], [True, False]]


def config_of(*branches: dict[str, Any]) -> RunConfig:
    prune = {"rounds": 2, "rewind_epoch": 1, "branches": branches}
    return RunConfig.model_validate({**MINIMAL, "prune": prune})


def test_branches_of_one_kind_share_its_training() -> None:
    config = config_of(
        {"method": "admm", "rounds": [2]},
        {"method": "regroup", "source": "admm", "rounds": [2]},
        {"method": "refill", "source": "admm", "criterion": "l1", "rounds": [2]},
        {"method": "admm", "name": "harder", "rho": 0.1, "rounds": [2]},
    )
    jobs = plan(config)
    assert [(job.id, job.parent, job.density) for job in jobs[3:]] == [
        ("02/admm-training", "00", 1.0),
        ("02/admm", "02/admm-training", pytest.approx(0.64)),
        ("02/regroup-admm", "02/admm-training", pytest.approx(0.64)),
        ("02/refill-admm", "02/admm-training", pytest.approx(0.64)),
        ("02/admm-training-0.1-1", "00", 1.0),
        ("02/harder", "02/admm-training-0.1-1", pytest.approx(0.64)),
    ]
    assert [each.name for each in measurements(jobs, jobs[3])] == ["l1"]
    assert {job.start for job in jobs[3:]} == {"rewind"}
    with pytest.raises(ValueError, match="two branches are called 'admm-training'"):
        config_of({"method": "admm"}, {"method": "random", "name": "admm-training"})
    inline = {**MINIMAL, "prune": {"rounds": 2, "mode": "inline", "branches": [{"method": "admm"}]}}
    with pytest.raises(ValueError, match="'admm' needs mode: branch"):
        RunConfig.model_validate(inline)


class StoppedError(Exception):
    """Thrown into a job to end it."""


def test_a_training_that_resumes_ends_with_the_same_bits(
    quickstart: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("distlth.train.executable", "tests.small_job"):
        monkeypatch.setattr(f"{module}.build", small_network)
    asked = ["cluster.workers=1", "train.epochs=3", "train.batch_size=480", "data.resolution=8"]
    asked += ["prune.rounds=1", "prune.rate=0.7", "checkpoint.every_steps=2", f"data.path={digits.path}"]
    asked += ["prune.branches=[{method: admm, rho: 0.5}]", "prune.scope=all"]
    config = load_config(quickstart, asked)
    job = plan(config)[2]
    assert job.method == "admm-training-0.5-1"
    whole = train(config, digits, RunPaths(tmp_path / "whole"), ignore, job)

    def stop(event: str, **_details: Any) -> None:
        if event == "last-step":
            raise StoppedError

    parts = RunPaths(tmp_path / "parts")
    with pytest.raises(StoppedError):
        train(config, digits, parts, stop, job)
    state = newest_state(parts.checkpoints(job.id))
    assert isinstance(state, JobState)
    assert set(state.penalty) == {"0.0", "0.3"}
    assert train(config, digits, parts, ignore, job).weights_digest == whole.weights_digest
    plain = train(config, digits, RunPaths(tmp_path / "plain"), ignore, replace(job, structure=None))
    assert plain.weights_digest != whole.weights_digest
    beside = {name: _beside(RunPaths(tmp_path / name), job.id) for name in ("whole", "plain")}
    assert beside["whole"] < beside["plain"]  # nearer to a network of 30% of the weights


def _beside(run: RunPaths, job: str) -> float:
    """The share of the magnitude that is in the 70% of the weights that would go."""
    weights, _ = load_tensors(run.job(job).weights)
    values = {name: weights[f"{name}.weight"] for name in ("0.0", "0.3")}
    count = sum(value.numel() for value in values.values())
    lost = sum(float(u.abs().sum()) for u in dual(values, round(0.3 * count)).values())
    return lost / sum(float(value.abs().sum()) for value in values.values())
