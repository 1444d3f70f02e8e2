"""Interpreted kernels equal torch's convolutions: tests/execute/test_triton.py runs these."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distlth.execute.triton import GroupedConv2d, Launch, grouped
from distlth.execute.triton import network as of_network
from distlth.execute.triton.conv import blocks_of
from distlth.execute.triton.layout import channels_last, planes
from distlth.execute.triton.measure import Measured
from distlth.models import build

LAUNCH = Launch(pixels=32)
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}


def block_mask(shape: torch.Size, height: int, spare: int = 3) -> Tensor:
    """Return a mask of random blocks of `height` rows; `spare` rows are in none."""
    mask = torch.zeros(shape, dtype=torch.bool).flatten(1)
    for rows in torch.randperm(shape[0])[: shape[0] - spare].split(height):
        mask[rows] = torch.rand(mask.shape[1]) < 0.4
    return mask.view(shape)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "sizes",
    [
        {"in_channels": 20, "out_channels": 33, "kernel_size": 1},
        {"in_channels": 17, "out_channels": 24, "kernel_size": 3, "stride": 2, "padding": 1},
        {"in_channels": 8, "out_channels": 19, "kernel_size": 3, "padding": (2, 0), "dilation": 2},
        {"in_channels": 16, "out_channels": 32, "kernel_size": 3, "padding": 1, "groups": 2},
        {"in_channels": 12, "out_channels": 16, "kernel_size": 1, "stride": 2, "bias": False},
    ],
    ids=["1x1", "stride", "dilation", "groups", "1x1 stride"],
)
def test_a_layer_equals_torchs(sizes: dict[str, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(**sizes).to(dtype)  # type: ignore[arg-type]
    conv.weight.data *= block_mask(conv.weight.shape, 7)
    x = torch.randn(2, conv.in_channels, 6, 7, dtype=dtype)
    bias = None if conv.bias is None else conv.bias.double()
    settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
    want = F.conv2d(x.double(), conv.weight.double(), bias, *settings)  # type: ignore[arg-type]
    added = torch.randn_like(want).to(dtype)
    plain = GroupedConv2d(conv, launch=LAUNCH)
    joined = GroupedConv2d(conv, min_rows=16, relu=True, launch=LAUNCH)
    with torch.no_grad():
        assert error(plain(x), want) <= TOLERANCE[dtype]
        assert error(joined(x, added), (want + added).relu()) <= TOLERANCE[dtype]


def test_what_is_not_kept_is_not_read() -> None:
    conv = nn.Conv2d(4, 16, 1)
    kept = torch.ones(16, 4, 1, 1, dtype=torch.bool)
    kept[:, 3] = False
    x = torch.randn(1, 4, 3, 3)
    got = GroupedConv2d(conv, blocks_of(conv, kept), launch=LAUNCH)(x)
    assert error(got, F.conv2d(x, conv.weight * kept, conv.bias)) <= 1e-6


def test_negative_zero_and_nan_go_through_relu_as_torchs() -> None:
    conv = nn.Conv2d(1, 16, 1, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.tensor([-1.0, 0.0, float("nan"), float("inf")]).view(1, 1, 2, 2)
    got = GroupedConv2d(conv, blocks_of(conv), relu=True, launch=LAUNCH)(x)
    assert torch.equal(got[0, 0].isnan(), x[0, 0].isnan())
    assert torch.equal(got[0, 5].nan_to_num(7), x[0, 0].relu().nan_to_num(7))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = build("resnet20", 10, seed=0).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        if isinstance(module, nn.Conv2d) and module.in_channels > 3:
            module.weight.data *= block_mask(module.weight.shape, 16, spare=0)
    return model


def test_a_network_equals_the_masked_one(network: nn.Module) -> None:
    images = torch.randn(2, 3, 8, 8)
    found = grouped(network, images, choice="all")
    assert len(found.layers) >= 11
    with torch.no_grad():
        assert error(found.network(images), network(images)) <= 1e-5
        other = torch.randn(1, 3, 12, 8)
        assert error(found.network(other), network(other)) <= 1e-5


def test_measured_layers_are_no_slower(network: nn.Module) -> None:
    images = torch.randn(1, 3, 8, 8)
    found = grouped(network, images)
    assert len(found.times) >= 18
    assert all(found.times[layer].grouped < found.times[layer].dense for layer in found.layers)
    with torch.no_grad():
        assert error(found.network(images), network(images)) <= 1e-5


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_layouts_change_and_values_do_not(dtype: torch.dtype) -> None:
    maps = torch.randn(3, 70, 5, 7).to(dtype)
    for stored in (maps, maps.contiguous(memory_format=torch.channels_last), planes(maps)):
        assert torch.equal(planes(stored), maps)
        assert planes(stored).transpose(0, 1).is_contiguous()
        assert torch.equal(channels_last(stored), maps)
        assert channels_last(stored).is_contiguous(memory_format=torch.channels_last)


def test_faster_layers_are_chosen_where_layouts_are_cheap(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other kind of layer is twice as fast as blocks."""
    numbers = iter(range(100))

    def measured(*_: object) -> Measured:
        number = next(numbers)
        return Measured(10.0, 5.0 if number % 2 else 20.0, LAUNCH, 1)

    monkeypatch.setattr(of_network, "measure", measured)
    images = torch.randn(1, 3, 8, 8)
    times = {}
    for seconds in (0.1, 100.0):
        monkeypatch.setattr(of_network, "conversion_seconds", lambda *_, seconds=seconds: seconds)
        numbers = iter(range(100))
        found = grouped(network, images)
        times[seconds] = found.layers
        assert all(found.times[layer].grouped < found.times[layer].dense for layer in found.layers)
        with torch.no_grad():
            assert error(found.network(images), network(images)) <= 1e-5
    assert len(times[0.1]) > 4
    assert times[100.0] == ()


def test_the_operator_is_torchs() -> None:
    conv = nn.Conv2d(8, 16, 3, padding=1)
    layer = GroupedConv2d(conv, launch=LAUNCH)
    x = torch.randn(1, 8, 4, 4)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), layer(x))
    assert compiled(x).transpose(0, 1).is_contiguous()


def error(got: Tensor, want: Tensor) -> float:
    """Return the largest difference, as a share of the largest value."""
    return float((got.double() - want).abs().max() / want.abs().max())
