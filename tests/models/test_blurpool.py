"""BlurPool: its values by hand, where ResNets have it, and that pruned channels take their filters along."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from distlth.errors import ConfigError
from distlth.execute import grouped
from distlth.export.export import TOLERANCE, largest_difference
from distlth.export.formats import safetensors_file
from distlth.export.parts import pack_parts
from distlth.export.saved import load_saved
from distlth.models import anatomy, build, prunable
from distlth.models.alive import count_alive, macs
from distlth.models.blurpool import BlurredConv2d, give_blurpool
from distlth.slim import slim
from tests.slim.tickets import refilled

# Its strided convolutions of at least 16 input channels; the stem has three.
BLURRED = [f"layer{stage}.0.{layer}" for stage in (2, 3, 4) for layer in ("conv1", "downsample.0")]


def test_values_by_hand() -> None:
    """An impulse spreads as the outer product of [1, 2, 1] / 4; of ones, borders lose what lies outside."""
    conv = nn.Conv2d(2, 1, 1, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    blurred = BlurredConv2d(conv)
    impulse = torch.zeros(1, 2, 5, 5)
    impulse[0, 1, 2, 1] = 16.0
    assert blurred(impulse)[0, 0].tolist() == [[0, 0, 0], [2, 2, 0], [0, 0, 0]]
    ones = blurred(torch.ones(1, 2, 5, 5))[0, 0] / 2 * 16
    assert ones.tolist() == [[9, 12, 9], [12, 16, 12], [9, 12, 9]]


def test_strided_convolutions_of_many_channels_are_blurred() -> None:
    plain, model = build("resnet18", 10, seed=3), build("resnet18", 10, seed=3, blurpool=True)
    assert [name for name, module in model.named_modules() if isinstance(module, BlurredConv2d)] == BLURRED
    same = zip(plain.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
    small = nn.Sequential(nn.Conv2d(15, 16, 3, stride=2), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 1, stride=2))
    give_blurpool(small)
    assert [isinstance(module, BlurredConv2d) for module in small] == [False, False, True]


def test_filters_are_counted_and_never_pruned() -> None:
    plain = anatomy(build("resnet18", 10, seed=0), 32)
    body = anatomy(build("resnet18", 10, seed=0, blurpool=True), 32)
    # Two filters a stage, on 64, 128 and 256 maps of 8, 4 and 2 pixels a side.
    assert (
        body.macs - plain.macs
        == macs(body.graph) - macs(plain.graph)
        == 2 * 9 * (64 * 64 + 128 * 16 + 256 * 4)
    )
    names = [layer.name for layer in prunable(body, "all")]
    assert len(names) == len(prunable(plain, "all"))
    assert not any("blur" in name for name in names)
    kept = {layer.name: torch.ones(layer.weight_shape, dtype=torch.bool) for layer in prunable(body, "all")}
    whole = count_alive(body.graph, kept).macs
    for name in ("layer3.1.conv2", "layer3.0.conv2", "layer3.0.downsample.0.conv"):
        kept[name][7] = False  # one channel of the stream that two filters and four layers read
    read = 2 * 9 * 4 + (512 * 9 + 512) + 256 * 9 * 4  # layer4: filters, both readers; layer3.1.conv1
    lost = (256 * 9 + 256 * 9 + 128) * 4
    assert whole - count_alive(body.graph, kept).macs == read + lost


def test_a_slim_network_and_an_exported_file_have_the_filters_of_its_channels(tmp_path: Path) -> None:
    masked = build("resnet18", 10, seed=0, blurpool=True)
    refilled(masked, 32)
    found = slim(masked, 32)
    assert largest_difference(masked, found.network, 32) <= TOLERANCE
    filters = {name: len(buffer) for name, buffer in found.network.named_buffers() if "blur" in name}
    assert [name.removesuffix(".blur_filter") for name in filters] == BLURRED
    assert all(count < 256 for count in filters.values())
    model = {"name": "resnet18", "stem": "imagenet", "blurpool": True, "num_classes": 10}
    file = tmp_path / "ticket.safetensors"
    about = {"model": model, "parts": pack_parts(found.parts)}
    file.write_bytes(safetensors_file(found.network, 32, about))
    assert largest_difference(masked, load_saved(file).network, 32) <= TOLERANCE
    made = grouped(masked, 32)
    assert made.in_torch == ()
    assert largest_difference(masked, made.network, 32) <= TOLERANCE


def test_other_networks_have_none() -> None:
    with pytest.raises(ConfigError, match=r"model\.blurpool: 'vgg11' has none; torchvision's ResNet"):
        build("vgg11", 10, seed=0, blurpool=True)
