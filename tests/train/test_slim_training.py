"""Training slim: step by step the masked training, to the same bits after a stop, on one rank and on two."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.files import load_tensors
from distlth.models import anatomy, build, prunable
from distlth.plan import plan
from distlth.preflight import preflight
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.refill import refill
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.ticket import Ticket
from distlth.train import executable, form
from distlth.train.form import Form, Masked, Slimmed
from distlth.train.step import train_step
from distlth.train.warm import WarmRank
from tests.small_job import WORLD
from tests.tiny_run import MINIMAL
from tests.train.test_executable import small_network

ROOT = Path(__file__).parent.parent.parent
STEPS = 20


def refilled(model: nn.Module, resolution: int, dtype: torch.dtype = torch.float64) -> Ticket:
    """A refill ticket of a network with 40% of its weights."""
    dense = Mask.dense({conv.name: conv.weight_shape for conv in prunable(anatomy(model, resolution), "all")})
    weights = {name: model.get_parameter(f"{name}.weight").detach().contiguous() for name in dense}
    mask = refill(prune_magnitude(weights, dense, 0.6), weights)
    return Ticket(mask, {k: v.clone() for k, v in model.to(dtype).state_dict().items()}, remove_channels=True)


def forms(
    name: str,
    resolution: int,
    digits: Dataset,
    dtype: torch.dtype = torch.float64,
    make: Callable[..., nn.Module] = build,
    **train: Any,
) -> tuple[RunConfig, Form, Form]:
    """A ticket of a network, masked and slim, on ranks of their own."""
    section = {"epochs": 1, "batch_size": 8, "lr": 0.05, "execution": "slim", "weight_decay": 0.01, **train}
    document = {**MINIMAL, "model": {"name": name}, "train": section}
    document["data"] = {"path": str(digits.path), "resolution": resolution, "crop": "none"}
    config = parse_config(document, "test")
    job = next(job for job in plan(config) if job.removes_channels)
    ticket = refilled(make(name, 10, seed=0, stem="imagenet"), resolution, dtype)
    with closing(WarmRank(config, digits, WORLD)) as rank, closing(WarmRank(config, digits, WORLD)) as other:
        found = rank.form(job, ticket), Masked(other.executable(job), ticket)
    assert isinstance(found[0], Slimmed)
    return config, *found


def trained(
    config: RunConfig, form: Form, resolution: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Take steps on random images; return the whole network's state."""
    torch.manual_seed(0)
    images = torch.randn(STEPS, 8, 3, resolution, resolution, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 10, (STEPS, 8))
    form.model.to(dtype)
    form.start()
    form.model.train()
    state = form.fresh_state(config.train, WORLD, seed=0)
    for step in range(STEPS):
        train_step(state, images[step], labels[step], step=step, lr=config.train.lr / (1 + step))
    state.masking.check_zeros()
    return form.whole()


CASES: dict[str, dict[str, Any]] = {
    "resnet20": {"nesterov": True, "decay_norm_and_bias": True},
    "mobilenet_v1": {"clip_norm": 1.0, "channels_last": False, "optimizer": "adamw", "lr": 0.001},
}


@pytest.mark.parametrize("name", CASES)
def test_slim_training_is_masked_training(name: str, digits: Dataset) -> None:
    """Weights, also those that the slim network lacks, and running statistics, after 20 steps in float64."""
    config, slim, masked = forms(name, 16, digits, **CASES[name])
    found, expected = trained(config, slim, 16), trained(config, masked, 16)
    assert sum(p.numel() for p in slim.model.parameters()) < 0.5 * sum(
        p.numel() for p in masked.model.parameters()
    )
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=1e-8)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are small, and compiled without a compiler: by torch's tracing alone."""
    for module in (executable, form):
        monkeypatch.setattr(module, "build", small_network)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.usefixtures("small")
def test_compiled_steps_train_slim(digits: Dataset) -> None:
    config, slim, masked = forms("resnet20", 16, digits, make=small_network, compile=True)
    found, expected = trained(config, slim, 16), trained(config, masked, 16)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains_slim(digits: Dataset, amp: str) -> None:
    """As near to masked training as that is to masked training in float32."""
    config, slim, masked = forms("resnet20", 16, digits, torch.float32, small_network, amp=amp)
    exact, _, plain = forms("resnet20", 16, digits, torch.float32, small_network)
    found, expected, reference = (
        torch.cat([tensor.flatten() for tensor in trained(each, form_, 16, torch.float32).values()])
        for each, form_ in ((config, slim), (config, masked), (exact, plain))
    )
    assert (expected - reference).norm() > 0
    assert (found - expected).norm() <= (expected - reference).norm()


def test_two_ranks_train_slim_and_resume_to_the_same_bits(
    digits: Dataset, quickstart: Path, tmp_path: Path
) -> None:
    places = map(str, (tmp_path, quickstart, digits.path))
    command = [sys.executable, "-m", "tests.train.slim_ranks", *places]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    jobs = {name: RunPaths(tmp_path / name).job("01/refill") for name in ("masked", "kept", "slim", "parts")}
    masked, kept, slim, parts = (JobResult.load(job) for job in jobs.values())
    assert masked
    assert kept
    assert slim
    assert parts
    assert kept.weights_digest == masked.weights_digest
    assert slim.weights_digest == parts.weights_digest
    assert (slim.val_loss, slim.train_loss) == (parts.val_loss, parts.train_loss)
    assert slim.val_loss == pytest.approx(masked.val_loss, rel=1e-3)
    found, expected = (load_tensors(jobs[name].weights)[0] for name in ("slim", "masked"))
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=2e-3 * float(tensor.abs().max() + 1))


def test_what_cannot_train_slim_is_refused(digits: Dataset) -> None:
    train = {**MINIMAL["train"], "execution": "slim"}  # type: ignore[dict-item]
    data = {"path": str(digits.path), "resolution": 32}
    with pytest.raises(ConfigError, match="no branch removes any; add a branch of method: refill"):
        parse_config({**MINIMAL, "train": train, "prune": {"rounds": 1}}, "test")
    model = {"name": "efficientnet_b0"}
    config = parse_config({**MINIMAL, "train": train, "model": model, "data": data}, "test")
    with pytest.raises(
        ConfigError, match=r"efficientnet_b0 cannot train slim: .*stochastic depth.*; set train"
    ):
        preflight(config)
