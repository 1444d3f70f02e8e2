"""The network on its device: what the options of training make of it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.plan import plan
from distlth.run.paths import RunPaths
from distlth.train.warm import WarmRank
from jobs.cli import main
from tests.small_job import WORLD, train, train_on


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_and_weights_reach_convolutions_in_the_memory_format_that_is_asked_for(
    quickstart: Path, digits: Dataset, channels_last: bool
) -> None:
    config = load_config(quickstart, [f"data.path={digits.path}", f"train.channels_last={channels_last}"])
    seen: list[bool] = []

    def look(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        formats = torch.channels_last if channels_last else torch.contiguous_format
        seen.extend(t.is_contiguous(memory_format=formats) for t in (inputs[0], *convolution.parameters()))

    with closing(WarmRank(config, digits, WORLD)) as rank:
        executable = rank.executable(plan(config)[0])
        for layer in executable.model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(look)
        images, _ = next(iter(executable.eval_loader))
        executable.model(images)
    assert len(seen) > 30
    assert all(seen)


def small_network(name: str, num_classes: int, *, seed: int, stem: str, blurpool: bool = False) -> nn.Module:
    """Two convolutions: what takes little to compile."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


@pytest.fixture
def asked(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What makes a job of two short epochs, of the small network."""
    for module in ("distlth.train.executable", "tests.small_job"):
        monkeypatch.setattr(f"{module}.build", small_network)
    return [f"data.path={digits.path}", "train.epochs=2", "train.batch_size=479", "prune.rewind_epoch=0"]


def test_compiled_steps_are_those_of_the_network_and_compiled_once_for_each_size_of_images(
    quickstart: Path, digits: Dataset, tmp_path: Path, asked: list[str]
) -> None:
    asked.append("data.resize={start: 8, from_epoch: 0, to_epoch: 1, multiple: 8}")
    config = load_config(quickstart, asked)
    compiled = load_config(quickstart, [*asked, "train.compile=true"])
    eager = train(config, digits, RunPaths(tmp_path / "eager"))
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    with closing(WarmRank(compiled, digits, WORLD)) as rank:
        rank.executable(plan(compiled)[0])
        found = graphs["unique_graphs"]
        assert found > 0
        first = train_on(rank, plan(compiled)[0], RunPaths(tmp_path / "first"))
        train_on(rank, replace(plan(compiled)[0], seed=1), RunPaths(tmp_path / "second"))
    assert graphs["unique_graphs"] == found
    assert first.train_loss == pytest.approx(eager.train_loss, rel=1e-5)
    assert first.val_loss == pytest.approx(eager.val_loss, rel=1e-5)


def test_a_machine_that_cannot_compile_is_told_apart(
    quickstart: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distlth.train.executable.build", small_network)
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    torch._dynamo.reset()
    asked = [f"data.path={digits.path}", "train.compile=true", "train.batch_size=64"]
    config = load_config(quickstart, asked)
    with closing(WarmRank(config, digits, WORLD)) as rank, pytest.raises(ConfigError) as refused:
        rank.executable(plan(config)[0])
    assert str(refused.value).startswith("train.compile: torch cannot compile model 'resnet20' on cpu here (")
    assert str(refused.value).count("\n") == 0


def test_cuda_graphs_change_nothing_on_a_cpu(
    quickstart: Path, digits: Dataset, tmp_path: Path, asked: list[str]
) -> None:
    digests = {
        train(load_config(quickstart, [*asked, *more]), digits, RunPaths(tmp_path / name)).weights_digest
        for name, more in (("eager", []), ("graph", ["train.cuda_graph=true", "cluster.workers=1"]))
    }
    assert len(digests) == 1


def test_cuda_graphs_of_several_ranks_are_refused(quickstart: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(quickstart, ["train.cuda_graph=true", "cluster.workers=2"])
    assert "train.cuda_graph: the passes of one rank are captured, and" in str(refused.value)
    assert "cluster.workers is 2; set cluster.workers: 1" in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_synchronised_batch_norm_without_a_gpu_is_refused(
    quickstart: Path, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [f"data.path={digits.path}", "train.sync_batch_norm=true", f"runs={tmp_path}"]
    for dry in ([], ["--dry-run"]):
        assert main(["run", str(quickstart), *asked, *dry]) == 2
        assert capsys.readouterr().err.startswith("error: train.sync_batch_norm: torch synchronises")
    assert not list(tmp_path.iterdir())
    config = load_config(quickstart, [*asked, "cluster.device=cuda"])
    with closing(WarmRank(config, digits, WORLD)) as rank, pytest.raises(ConfigError, match="has none"):
        rank.executable(plan(config)[0])
