"""The step before any job: what a device cannot do is named at the start, and nothing else comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.models import build, zoo
from distlth.plan import plan
from distlth.train.rehearsal import rehearse
from distlth.train.warm import WarmRank
from tests.injected import inject
from tests.models.test_removal import TRIED
from tests.small_job import WORLD
from tests.small_run import run

# A network whose backward pass has an operator that torch refuses on CPUs too, as it refuses others on GPUs.
STUBBORN = """
import torch
from torch import nn

class Put(torch.autograd.Function):
    @staticmethod
    def forward(context, logits):
        return logits.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient.clone().put_(torch.tensor([0]), torch.tensor([0.0]))

class Stubborn(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.logits = nn.Linear(8, num_classes)

    def forward(self, images):
        return Put.apply(self.logits(self.norm(self.conv(images)).mean((2, 3))))
"""

# Registers it in every process of a run.
REGISTER = """
from stubborn import Stubborn
module.CIFAR_TYPE["stubborn"] = Stubborn
"""

LINE = (
    "train.deterministic: torch has no deterministic put_ on cpu, which model 'stubborn' needs; "
    "set train.deterministic: false, or take another model"
)


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network under the name that a job file gives it."""
    made: dict[str, Callable[[int], nn.Module]] = {}
    exec(STUBBORN, made)
    monkeypatch.setitem(zoo.CIFAR_TYPE, "stubborn", made["Stubborn"])


@pytest.mark.usefixtures("stubborn")
def test_an_operator_without_a_deterministic_kernel_is_refused_at_the_start(
    quickstart: Path, digits: Dataset
) -> None:
    asked = [f"data.path={digits.path}", "model.name=stubborn"]
    config = load_config(quickstart, asked)
    with closing(WarmRank(config, digits, WORLD)) as rank, pytest.raises(ConfigError) as refused:
        rank.executable(plan(config)[0])
    assert str(refused.value) == LINE
    config = load_config(quickstart, [*asked, "train.deterministic=false"])
    with closing(WarmRank(config, digits, WORLD)) as rank:
        assert rank.executable(plan(config)[0]).anatomy.num_parameters


def test_a_run_of_such_a_network_ends_with_one_line(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", inject(tmp_path / "inject", "distlth.models.zoo", REGISTER))
    (tmp_path / "inject" / "stubborn.py").write_text(STUBBORN)
    options = ("model.name=stubborn", "prune.scope=all", "prune.branches=[]", "cluster.workers=1")
    ended = run(digits, tmp_path, *options)
    assert (ended.returncode, ended.stderr) == (2, f"error: {LINE}\n")


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_nothing_comes_of_it(quickstart: Path, digits: Dataset, amp: str) -> None:
    config = load_config(quickstart, [f"data.path={digits.path}", f"train.amp={amp}"])
    fresh = build(config.model.name, 10, seed=config.seed).state_dict()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with closing(WarmRank(config, digits, WORLD)) as rank:
        model = rank.executable(plan(config)[0]).model
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_other_errors_are_left_as_they_are(
    quickstart: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Large(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, num_classes, 1)

        def forward(self, images: Tensor) -> Tensor:
            if images.device.type != "meta":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
            logits: Tensor = self.layer(images)
            return logits.mean((2, 3))

    monkeypatch.setitem(zoo.CIFAR_TYPE, "large", Large)
    config = load_config(quickstart, [f"data.path={digits.path}", "model.name=large"])
    with closing(WarmRank(config, digits, WORLD)) as rank, pytest.raises(torch.OutOfMemoryError):
        rank.executable(plan(config)[0])


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a rank sets under `train.deterministic`."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("deterministic")
class TestOnAGpu:
    @pytest.mark.parametrize("amp", ["off", "bf16"])
    @pytest.mark.parametrize("name", TRIED)
    def test_every_network_takes_the_step(self, quickstart: Path, name: str, amp: str) -> None:
        self.rehearse(quickstart, build(name, 10, seed=0), 224, f"train.amp={amp}")

    @pytest.mark.parametrize("resolution", [32, 64, 256, 448])
    def test_vgg_does_at_each_kind_of_resolution(self, quickstart: Path, resolution: int) -> None:
        self.rehearse(quickstart, build("vgg11", 10, seed=0), resolution)

    def test_torchs_own_pooling_is_refused(self, quickstart: Path) -> None:
        model = nn.Sequential(nn.Conv2d(3, 10, 1), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(490, 10))
        with pytest.raises(ConfigError, match="no deterministic adaptive_avg_pool2d_backward_cuda on cuda"):
            self.rehearse(quickstart, model, 32)

    def rehearse(self, quickstart: Path, model: nn.Module, resolution: int, *overrides: str) -> None:
        config = load_config(quickstart, ["data.path=none", *overrides])
        model.to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.zeros(2, 3, resolution, resolution, device="cuda")
        rehearse(config, model, model, images.contiguous(memory_format=torch.channels_last))
