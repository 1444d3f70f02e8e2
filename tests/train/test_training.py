"""Training a job: schedules, decay, masks that hold, evaluation, and resuming to the same bits."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distlth.config.read import load_config
from distlth.config.schema import RunConfig, ScheduleSection, TrainSection
from distlth.data.dataset import Dataset
from distlth.errors import TrainingError
from distlth.files import load_tensors, save_tensors
from distlth.methods.channel_scores import channel_scores
from distlth.models import anatomy, build, prunable
from distlth.plan import Job, plan
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.refill import refill
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, load_metrics
from distlth.ticket import Ticket
from distlth.train.calibration import CalibrationRun
from distlth.train.checkpoint import CheckpointWriter, JobState, newest_state
from distlth.train.evaluate import evaluate
from distlth.train.masking import Masking, parameter_masks
from distlth.train.optim import decayed, make_optimizer
from distlth.train.pulse import Pulse
from distlth.train.schedule import learning_rate
from tests.small_job import WORLD, train


class TestSchedule:
    def rates(self, *, steps_per_epoch: int = 10, epochs: int = 9, **schedule: Any) -> list[float]:
        section = ScheduleSection(**schedule)
        steps = range(steps_per_epoch * epochs)
        return [learning_rate(section, 0.4, step, steps_per_epoch, epochs) for step in steps]

    def test_step_falls_at_its_milestones(self) -> None:
        rates = self.rates(name="step", milestones=(3, 6), gamma=0.1)
        assert rates[29] == 0.4
        assert rates[30] == pytest.approx(0.04)
        assert rates[60] == pytest.approx(0.004)

    def test_warmup_rises_to_the_base_rate(self) -> None:
        rates = self.rates(name="step", milestones=(6,), warmup_epochs=2)
        assert rates[:20] == pytest.approx([0.4 * (step + 1) / 20 for step in range(20)])
        assert rates[20] == 0.4

    def test_cosine_is_half_way_down_in_the_middle(self) -> None:
        rates = self.rates(name="cosine", warmup_epochs=1)
        assert rates[10] == 0.4
        assert rates[50] == pytest.approx(0.2)

    @given(
        name=st.sampled_from(["step", "cosine", "linear", "constant"]),
        warmup=st.floats(0, 4),
        steps=st.integers(1, 9),
    )
    def test_every_rate_is_between_zero_and_the_base(self, name: str, warmup: float, steps: int) -> None:
        milestones = (3, 6) if name == "step" else ()
        rates = self.rates(name=name, milestones=milestones, warmup_epochs=warmup, steps_per_epoch=steps)
        assert all(0 < rate <= 0.4 for rate in rates)
        after = rates[math.ceil(warmup * steps) :]
        assert after == sorted(after, reverse=True)


def test_decay_spares_norms_and_biases() -> None:
    model = build("resnet20", 10, seed=0, stem="cifar")
    spared = set(dict(model.named_parameters())) - decayed(model, norm_and_bias=False)
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name.rpartition(".")[0] for name in spared} >= norms
    assert not any(name.endswith("weight") and name.rpartition(".")[0] not in norms for name in spared)
    assert decayed(model, norm_and_bias=True) == set(dict(model.named_parameters()))


def sparse_ticket(
    model: nn.Module, *, refilled: bool, density: float = 0.3
) -> tuple[Ticket, dict[str, torch.Tensor]]:
    body = anatomy(model, 32)
    dense = Mask.dense({conv.name: conv.weight_shape for conv in prunable(body, "all")})
    weights = {name: model.get_parameter(f"{name}.weight").detach().contiguous() for name in dense}
    mask = prune_magnitude(weights, dense, 1 - density)
    mask = refill(mask, weights) if refilled else mask
    ticket = Ticket(mask, model.state_dict(), remove_channels=refilled)
    return ticket, parameter_masks(ticket, body, dict(model.named_parameters()))


@pytest.mark.parametrize("refilled", [False, True])
@pytest.mark.parametrize("optimizing", [{"nesterov": True}, {"optimizer": "adamw"}], ids=["sgd", "adamw"])
def test_masked_weights_stay_exactly_zero_whatever_the_optimizer_remembers(
    refilled: bool, optimizing: dict[str, Any]
) -> None:
    model = build("resnet20", 10, seed=0, stem="cifar").to(memory_format=torch.channels_last)
    _, masks = sparse_ticket(model, refilled=refilled)
    masking = Masking(model, masks)
    train = {"epochs": 1, "batch_size": 8, "lr": 0.5, "weight_decay": 0.1, "decay_norm_and_bias": True}
    config = TrainSection(**train, **optimizing)
    optimizer = make_optimizer(model, config)
    generator = torch.Generator().manual_seed(0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(3):
        model(torch.randn(8, 3, 16, 16, generator=generator)).logsumexp(1).sum().backward()
        masking.mask_gradients()
        optimizer.step()
        optimizer.zero_grad()
    masking.check_zeros()
    for name, parameter in model.named_parameters():
        kept = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert not parameter[~kept].any()
        assert not torch.equal(parameter[kept], before[name][kept])
    parameter = model.get_parameter(next(iter(masks)))
    with torch.no_grad():
        parameter[~masks[next(iter(masks))]] = 1e-30
    with pytest.raises(RuntimeError, match="not zero"):
        masking.check_zeros()


def test_evaluation_counts_each_image_once() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(11, 7, generator=generator), torch.randint(0, 7, (11,), generator=generator)
    batches = [(logits[:8], labels[:8]), (logits[8:], labels[8:])]
    found = evaluate(nn.Identity(), batches, WORLD, torch.autocast("cpu", enabled=False))
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert found.count == 11
    assert found.top1 == pytest.approx((ranks < 1).double().mean().item())
    assert found.top5 == pytest.approx((ranks < 5).double().mean().item())
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)


def test_channel_scores_are_what_they_are_called() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images, labels = torch.randn(6, 3, 5, 5), torch.randint(0, 4, (6,))
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    maps = model[0](images)
    calibration = CalibrationRun(model.eval(), ["0"], batches, WORLD, Pulse())
    scores = {c: channel_scores(c)(calibration)["0"] for c in ("l1", "l2", "saliency")}
    assert torch.allclose(scores["l1"], maps.abs().sum((2, 3)).mean(0).double())
    assert torch.allclose(scores["l2"], maps.flatten(2).norm(dim=2).mean(0).double())
    (gradient,) = torch.autograd.grad(
        nn.functional.cross_entropy(maps.relu().mean((2, 3)), labels, reduction="sum"), maps
    )
    assert torch.allclose(scores["saliency"], (maps * gradient).abs().sum((2, 3)).mean(0).double())


def same_training(first: JobResult, second: JobResult) -> bool:
    """Whether two trainings have left the same bits."""
    names = ("weights_digest", "train_loss", "val_loss", "val_top1")
    return all(getattr(first, name) == getattr(second, name) for name in names)


class StoppedError(Exception):
    """Thrown into a job to end it."""


class TestJob:
    """Whole jobs on one rank, in this process."""

    @pytest.fixture
    def config(self, quickstart: Path, digits: Dataset) -> RunConfig:
        overrides = ["cluster.workers=1", "train.epochs=3", "train.batch_size=160", "prune.rewind_epoch=1"]
        overrides += [
            "checkpoint.every_steps=5",
            "log_every=4",
            "train.label_smoothing=0.1",
            "data.resolution=8",
        ]
        return load_config(quickstart, [*overrides, f"data.path={digits.path}"])

    def train(
        self, config: RunConfig, digits: Dataset, run: RunPaths, job: Job, stop_at: str = ""
    ) -> JobResult:
        def note(event: str, **_details: Any) -> None:
            if event == stop_at:
                raise StoppedError

        return train(config, digits, run, note, job)

    def whole_and_stopped(
        self, config: RunConfig, digits: Dataset, folder: Path
    ) -> tuple[JobResult, JobState, Path]:
        """Train the first job, and once more up to its end; return the result and the newest checkpoint."""
        whole, parts = self.both(folder)
        first = plan(config)[0]
        dense = self.train(config, digits, whole, first)
        with pytest.raises(StoppedError):
            self.train(config, digits, parts, first, stop_at="last-step")
        state = newest_state(parts.checkpoints("00"))
        assert state is not None
        assert state.step % 8  # in the middle of an epoch
        return dense, state, parts.checkpoint("00", state.step)

    def both(self, folder: Path) -> tuple[RunPaths, RunPaths]:
        """The run that trains the job whole, and the one that is stopped."""
        return RunPaths(folder / "whole"), RunPaths(folder / "parts")

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_a_resumed_job_ends_with_the_same_bits(
        self, config: RunConfig, digits: Dataset, tmp_path: Path, optimizer: str
    ) -> None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"optimizer": optimizer})})
        dense, _, _ = self.whole_and_stopped(config, digits, tmp_path)
        whole, parts = self.both(tmp_path)
        resumed = self.train(config, digits, parts, plan(config)[0])
        assert same_training(resumed, dense)
        assert self.losses(parts) == self.losses(whole)
        assert parts.seed(0).rewind.read_bytes() == whole.seed(0).rewind.read_bytes()

    def test_a_resumed_job_in_fp16_has_its_scale(
        self, config: RunConfig, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The scale doubles every second step. Small gradients round to other bits with another scale."""
        constant = ScheduleSection(name="constant")
        scaler = partial(torch.amp.GradScaler, init_scale=256.0, growth_interval=2)
        monkeypatch.setattr(torch.amp, "GradScaler", scaler)
        update = {
            "train": config.train.model_copy(update={"amp": "fp16", "epochs": 1, "schedule": constant}),
            "prune": config.prune.model_copy(update={"rewind_epoch": 0}),
        }
        mixed = config.model_copy(update=update)
        dense, state, _ = self.whole_and_stopped(mixed, digits, tmp_path)
        assert (state.scaler["scale"], state.scaler["_growth_tracker"]) == (1024.0, 1)
        resumed = self.train(mixed, digits, self.both(tmp_path)[1], plan(mixed)[0])
        assert same_training(resumed, dense)

    def test_a_checkpoint_of_two_ranks_keeps_its_sums_on_one(
        self, config: RunConfig, digits: Dataset, tmp_path: Path
    ) -> None:
        dense, state, checkpoint = self.whole_and_stopped(config, digits, tmp_path)
        assert state.sums[0].any()
        replace(state, sums=torch.cat([state.sums / 4, state.sums * 3 / 4])).save(checkpoint)
        resumed = self.train(config, digits, self.both(tmp_path)[1], plan(config)[0])
        assert resumed.weights_digest == dense.weights_digest
        assert resumed.train_loss == pytest.approx(dense.train_loss, rel=1e-12)

    def losses(self, run: RunPaths) -> list[tuple[int, float, float | None]]:
        return [(line.epoch, line.loss, line.val_top1) for line in load_metrics(run.job("00"))]

    def test_the_rewind_point_is_after_exactly_its_epoch(
        self, config: RunConfig, digits: Dataset, tmp_path: Path
    ) -> None:
        run, short = RunPaths(tmp_path / "run"), RunPaths(tmp_path / "short")
        job = plan(config)[0]
        # With a constant rate, one epoch of the long job is the whole of a short one.
        constant = config.train.model_copy(update={"schedule": ScheduleSection(name="constant")})
        long = config.model_copy(update={"train": constant})
        self.train(long, digits, run, job)
        prune = config.prune.model_copy(update={"rewind_epoch": 0})
        one = long.model_copy(update={"train": constant.model_copy(update={"epochs": 1}), "prune": prune})
        self.train(one, digits, short, job)
        rewind, _ = load_tensors(run.seed(0).rewind)
        trained, _ = load_tensors(short.job("00").weights)
        assert rewind.keys() == trained.keys()
        assert all(torch.equal(rewind[name], trained[name]) for name in rewind)
        init, _ = load_tensors(short.seed(0).rewind)
        fresh = build("resnet20", 10, seed=config.seed, stem="cifar").state_dict()
        assert all(torch.equal(init[name], fresh[name]) for name in fresh)

    def test_the_rewind_point_may_be_the_trained_network(
        self, config: RunConfig, digits: Dataset, tmp_path: Path
    ) -> None:
        constant = ScheduleSection(name="constant")
        train = config.train.model_copy(update={"epochs": 1, "schedule": constant})  # and `rewind_epoch` is 1
        late, run = config.model_copy(update={"train": train}), RunPaths(tmp_path)
        assert plan(late)[1].first_epoch == 0
        self.train(late, digits, run, plan(late)[0])
        rewind, _ = load_tensors(run.seed(0).rewind)
        trained, _ = load_tensors(run.job("00").weights)
        assert all(torch.equal(rewind[name], trained[name]) for name in trained)

    def test_a_loss_that_is_not_finite_is_named(
        self, config: RunConfig, digits: Dataset, tmp_path: Path
    ) -> None:
        wild = config.model_copy(update={"train": config.train.model_copy(update={"lr": 1e30})})
        with pytest.raises(
            TrainingError, match=r"job 00: the loss was not finite at step \d+ \(learning rate"
        ):
            self.train(wild, digits, RunPaths(tmp_path), plan(wild)[0])
        assert not RunPaths(tmp_path).job("00").result.exists()

    @pytest.mark.parametrize("amp", ["bf16"])
    def test_mixed_precision_trains(
        self, config: RunConfig, digits: Dataset, tmp_path: Path, amp: str
    ) -> None:
        mixed = config.model_copy(
            update={"train": config.train.model_copy(update={"amp": amp, "clip_norm": 1.0})}
        )
        result = self.train(mixed, digits, RunPaths(tmp_path), plan(mixed)[0])
        assert result.train_loss < 2.0


class TestCheckpoints:
    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_no_sums_are_lost_on_any_number_of_ranks(self, size: int) -> None:
        state = replace(self.state(5), sums=torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]))
        found = torch.stack([state.sums_of(rank, size) for rank in range(size)])
        assert torch.equal(found.sum(0), state.sums.sum(0))
        assert size != 2 or torch.equal(found, state.sums)

    def state(self, step: int) -> JobState:
        return JobState("00", step, "m", {"w": torch.full((2,), step)}, {}, {"scale": 2.0}, torch.zeros(1, 4))

    def write(self, folder: Path, steps: list[int], keep: int) -> None:
        writer = CheckpointWriter(folder, keep)
        for step in steps:
            writer.write(self.state(step))
        writer.wait()

    def test_the_newest_few_are_kept(self, tmp_path: Path) -> None:
        self.write(tmp_path, [5, 10, 15], keep=2)
        assert sorted(path.stem for path in tmp_path.iterdir()) == ["000000010", "000000015"]
        newest = newest_state(tmp_path)
        assert newest is not None
        assert (newest.step, newest.scaler, newest.model["w"].tolist()) == (15, {"scale": 2.0}, [15, 15])

    def test_those_written_before_there_was_a_choice_of_optimizers_keep_their_momentum(
        self, tmp_path: Path
    ) -> None:
        about = {"job": "00", "step": 1, "mask": "m", "scaler": {}}
        tensors = {"momentum/w": torch.ones(2), "sums": torch.zeros(1, 4)}
        save_tensors(tmp_path / "old.safetensors", tensors, {"state": json.dumps(about)})
        found = JobState.load(tmp_path / "old.safetensors")
        assert {name: tensor.tolist() for name, tensor in found.optimizer.items()} == {
            "momentum_buffer/w": [1, 1]
        }

    def test_whatever_keeps_one_from_being_written_is_reported_and_the_next_is_tried(
        self, tmp_path: Path
    ) -> None:
        failed: list[tuple[int, str]] = []
        writer = CheckpointWriter(
            tmp_path, 2, lambda step, error: failed.append((step, type(error).__name__))
        )
        writer.write(replace(self.state(5), scaler={"scale": object()}))
        writer.write(self.state(10))
        writer.wait()
        assert failed == [(5, "TypeError")]
        assert [path.stem for path in tmp_path.iterdir()] == ["000000010"]

    def test_what_must_be_written_and_cannot_be_is_raised(self, tmp_path: Path) -> None:
        writer = CheckpointWriter(tmp_path, 2)

        def write() -> None:
            raise LookupError("not of the disk")

        writer.insist(write, lambda error, seconds: None)
        with pytest.raises(LookupError, match="not of the disk"):
            writer.wait()
        writer.wait()

    def test_a_torn_one_is_named_and_the_one_before_it_used(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.write(tmp_path, [5, 10], keep=2)
        torn = tmp_path / "000000010.safetensors"
        torn.write_bytes(torn.read_bytes()[:-3])
        newest = newest_state(tmp_path)
        assert newest is not None
        assert newest.step == 5
        assert str(torn) in caplog.text

    def test_a_folder_that_cannot_be_written_does_not_end_training(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        self.write(tmp_path / "file" / "folder", [5], keep=2)
        assert "not written" in caplog.text
        assert newest_state(tmp_path / "none") is None
