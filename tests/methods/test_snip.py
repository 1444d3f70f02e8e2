"""SNIP: sensitivities by hand, and a run whose ticket is made from the untrained network."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.errors import RunError
from distlth.files import load_tensors
from distlth.methods import Source
from distlth.methods.snip import Snip, connection_sensitivity
from distlth.plan import measurements, plan
from distlth.prune.magnitude import planned_kept, prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.scores import keep_best
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.tickets import load_structured, load_trained
from distlth.ticket import Ticket, Trained
from distlth.train.calibration import CalibrationRun
from distlth.train.pulse import Pulse
from distlth.train.trainer import train_job
from distlth.train.warm import WarmRank
from tests.small_job import WORLD, dense_ticket, ignore, train_on


def test_sensitivity_is_that_of_the_mean_loss() -> None:
    conv = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1, 1))
    model = nn.Sequential(conv, nn.Flatten()).eval()
    images, labels = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
    batches = [(images[:1], labels[:1]), (images[1:], labels[1:])]
    found = connection_sensitivity(CalibrationRun(model, ["0"], batches, WORLD, Pulse()))["0"]
    # Logits (2, -1) and (4, -2): p0 = 0.952574 and 0.997527, gradients x (p - y), their mean -+0.973815.
    assert found.flatten().tolist() == pytest.approx([1.947629, 0.973815], rel=1e-5)
    assert found.shape == (2, 1, 1, 1)
    assert conv.weight.grad is None


def test_the_most_sensitive_are_kept_or_the_missing_measurement_is_named() -> None:
    dense = Mask.dense({"a": (1, 4)})
    trained = Trained(dense, {}, {"snip": {"a": torch.tensor([[0.1, 0.4, 0.2, 0.3]])}})
    assert Snip(method="snip").make(Source(dense, trained, 2, seed=0)).mask["a"].tolist() == [
        [False, True, False, True]
    ]
    with pytest.raises(RunError, match="'snip' was not measured when the job trained"):
        Snip(method="snip").make(Source(dense, Trained(dense, {}), 2, seed=0))


def test_the_mask_comes_from_the_initial_weights(
    config: RunConfig, digits: Dataset, finished: RunPaths
) -> None:
    init, _ = load_tensors(finished.seed(config.seed).init)
    parent, made = load_trained(finished.job("00")), load_structured(finished.job("01/snip"))
    assert made is not None
    with closing(WarmRank(config, digits, WORLD)) as rank:
        executable = rank.executable(plan(config)[0])
        executable.model.load_state_dict(init)
        executable.model.eval()
        with closing(executable.open_calibration()) as loader:
            batches = [(images.clone(), labels.clone()) for images, labels in loader]
    assert sum(len(labels) for _, labels in batches) == 100
    loss = sum(
        functional.cross_entropy(executable.model(images), labels, reduction="sum") / 100
        for images, labels in batches
    )
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    scores = parent.measured["snip"]
    for name in made.mask:
        weight = executable.model.get_parameter(f"{name}.weight")
        assert weight.grad is not None
        torch.testing.assert_close(scores[name], (weight * weight.grad).abs(), rtol=1e-3, atol=1e-7)
    assert made.mask == keep_best(scores, parent.mask, made.mask.kept)
    assert made.mask.kept == planned_kept(parent.mask.total, 0.7, 1)[1]
    # The trunk's round keeps as many, but others.
    trunk = prune_magnitude(parent.weights, parent.mask, 0.7)
    assert (trunk.kept, trunk == made.mask) == (made.mask.kept, False)


def test_the_ticket_trains_from_the_initial_weights_for_the_whole_schedule(
    config: RunConfig, digits: Dataset, finished: RunPaths, tmp_path: Path
) -> None:
    jobs = {job.id: job for job in plan(config)}
    result, made = JobResult.load(finished.job("01/snip")), load_structured(finished.job("01/snip"))
    assert result is not None
    assert made is not None
    assert (result.epochs, result.round, result.method) == (2, 1, "snip")
    init, _ = load_tensors(finished.seed(config.seed).init)
    again, snip = RunPaths(tmp_path), jobs["01/snip"]
    with closing(WarmRank(config, digits, WORLD)) as rank:
        curves = partial(JobBoard, again, snip.id)
        trained = train_job(rank, snip, Ticket(made.mask, init), again, ignore, curves)
    assert trained.weights_digest == result.weights_digest


def test_measuring_leaves_the_bits_of_round_0_as_they_are(
    config: RunConfig, digits: Dataset, finished: RunPaths, tmp_path: Path
) -> None:
    jobs = plan(config)
    assert "snip" in {each.name for each in measurements(jobs, jobs[0]) if each.untrained}
    with closing(WarmRank(config, digits, WORLD)) as rank:
        alone = train_on(rank, jobs[0], RunPaths(tmp_path))
    measured = JobResult.load(finished.job("00"))
    assert measured is not None
    assert alone.weights_digest == measured.weights_digest
    assert not RunPaths(tmp_path).job("00").untrained.exists()


class StoppedError(Exception):
    """Thrown into a job to end it."""


def test_a_job_that_resumes_has_what_was_measured_before_its_first_step(
    config: RunConfig, digits: Dataset, finished: RunPaths, tmp_path: Path
) -> None:
    run, jobs = RunPaths(tmp_path), plan(config)
    often = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"every_steps": 1})})

    def train(stop_at: str) -> None:
        def note(event: str, **_details: object) -> None:
            if event == stop_at:
                raise StoppedError

        with closing(WarmRank(often, digits, WORLD)) as rank:
            ticket, curves = dense_ticket(rank, jobs[0]), partial(JobBoard, run, "00")
            train_job(rank, jobs[0], ticket, run, note, curves, needed=measurements(jobs, jobs[0]))

    with pytest.raises(StoppedError):
        train(stop_at="last-step")
    written = run.job("00").untrained.stat().st_mtime_ns
    train(stop_at="")
    assert run.job("00").untrained.stat().st_mtime_ns == written
    assert run.job("00").untrained.read_bytes() == finished.job("00").untrained.read_bytes()
