"""The network on its device: what the options of training make of it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.plan import plan
from distlth.train.warm import WarmRank
from jobs.cli import main
from tests.small_job import WORLD


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
