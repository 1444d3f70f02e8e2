"""Dense blocks by Triton: interpreted kernels equal torch's convolutions, and they compile for an H100."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from distlth.errors import UserError
from distlth.execute.triton import GroupedConv2d, grouped, network_blocks
from distlth.execute.triton.plan import coarser, for_tf32, grouped_blocks, plan
from distlth.execute.triton.sites import folded, sites
from distlth.models import build
from distlth.prune.blocks import Block, block_mask

ROOT = Path(__file__).parent.parent.parent


def test_interpreted_kernels_equal_torchs_convolutions() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "tests/execute/triton_cases.py",
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # read when torch imports Triton
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " passed" in ended.stdout


@pytest.fixture(scope="module")
def wgmma() -> dict[str, bool]:
    """Whether each form of the kernel, compiled in one process, multiplies on an H100's tensor cores."""
    code = (
        "import json; from tests.execute.compiled import ptx\n"
        "forms = [(dtype, pointwise) for dtype in ('bf16', 'fp32') for pointwise in (True, False)]\n"
        "print(json.dumps({f'{form[0]} {form[1]}': 'wgmma' in ptx(*form) for form in forms}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: dict[str, bool] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("pointwise", [True, False])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_kernel_compiles_without_a_gpu(dtype: str, pointwise: bool, wgmma: dict[str, bool]) -> None:
    assert wgmma[f"{dtype} {pointwise}"]


def test_the_plan_has_each_kept_cell_once() -> None:
    blocks = [
        Block(np.arange(0, 40, 2), np.arange(3, 90, 4)),
        Block(np.arange(1, 40, 2), np.arange(0, 90, 5)),
    ]
    mask = block_mask(blocks, torch.Size((44, 10, 3, 3)))
    weight = torch.arange(1.0, 1 + mask.numel()).view(mask.shape) * mask
    found = plan(weight, grouped_blocks(mask))
    again = torch.zeros(weight.shape)
    for (first, count), rows in zip(found.tiles.tolist(), found.rows, strict=True):
        for step in range(first, first + count):
            y, x = found.taps[step].tolist()
            channels = found.channels[step].long()
            for row, cells in zip(rows.tolist(), found.weight[step], strict=True):
                if row >= 0:
                    again[row, :, y, x].index_add_(0, channels[channels >= 0], cells[channels >= 0])
    assert torch.equal(again, weight)
    assert sorted(found.rows[found.rows >= 0].tolist()) == list(range(44))


def test_tf32_loses_nothing_on_average() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(1000, 64), torch.randn(1000, 64)
    cut = (x.view(torch.int32) & -0x2000).view(torch.float32)
    rounded = for_tf32(weight)
    assert torch.equal(rounded.view(torch.int32) & 0x1FFF, torch.zeros(1000, 64, dtype=torch.int32))
    exact = (weight * x).abs().sum()
    assert abs(float((rounded * cut).abs().sum() / exact) - 1) < 2e-5
    assert 1 - float((weight * cut).abs().sum() / exact) > 3e-4


def test_joined_blocks_have_the_cells_of_their_parts() -> None:
    blocks = [Block(np.array([row]), np.flatnonzero(np.arange(20) % (row + 2))) for row in range(7)]
    joined = coarser(blocks, 3)
    assert min(len(block.rows) for block in joined) >= 3
    shape = torch.Size((7, 20, 1, 1))
    assert bool(block_mask(joined, shape)[block_mask(blocks, shape)].all())


def test_sums_and_relus_belong_to_the_convolutions_before_them() -> None:
    model = build("resnet20", 10, seed=0).eval()
    found = sites(folded(model), torch.randn(1, 3, 8, 8))
    assert len(found) == 19
    assert sum(site.sum for site in found) == 9
    assert all(site.relu for site in found)


def test_unstructured_masks_are_no_blocks() -> None:
    model = build("resnet20", 10, seed=0)
    masks = {
        name: torch.rand(m.weight.shape) < 0.5 for name, m in model.named_modules() if type(m) is nn.Conv2d
    }
    assert network_blocks(model, masks) == {}


def test_mistakes_are_one_line() -> None:
    layer = GroupedConv2d(nn.Conv2d(4, 16, 1))
    with pytest.raises(UserError, match="needs a GPU, not cpu"):
        layer(torch.randn(1, 4, 2, 2))
    with pytest.raises(UserError, match="float32, bfloat16 and float16, not"):
        GroupedConv2d(nn.Conv2d(4, 16, 1).double())
    with pytest.raises(UserError, match="zero padding in pixels, not 'same'"):
        GroupedConv2d(nn.Conv2d(4, 16, 3, padding="same"))
    with pytest.raises(UserError, match="cannot trace this network"):
        grouped(Branching(), torch.randn(1, 4, 2, 2))


def test_without_triton_one_line_says_so() -> None:
    code = "import sys; sys.modules['triton'] = None; import distlth.execute.triton"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.stderr.splitlines()[-1].endswith(
        "grouped execution on a GPU needs Triton, which this Python lacks; torch builds for CUDA bring it"
    )


class Branching(nn.Module):
    """A network whose forward depends on values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x
