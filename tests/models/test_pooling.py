"""Pooling to a fixed size: torch's values and gradients, from operators that are deterministic on GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.models as tv
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from distlth.models import anatomy, build
from distlth.models.pooling import FixedSizeAvgPool2d
from tests.models.test_removal import TRIED

SIZES = [
    ((7, 7), 7),  # as it is
    ((14, 21), 7),  # equal windows
    ((1, 1), 7),  # repeated: VGG at 32 pixels
    ((2, 3), 6),  # overlapping and repeated
    ((8, 9), 7),  # unequal windows
    ((13, 14), (6, 7)),
    ((8, 7), (5, 7)),  # one dimension as it is
    ((9, 5), (None, 2)),
]

# Operators that torch refuses on CUDA under use_deterministic_algorithms, of those that layers are made of.
REFUSED = (
    *("adaptive_avg_pool", "adaptive_max_pool", "avg_pool3d", "fractional_max_pool", "max_unpool"),
    *("reflection_pad", "upsample", "grid_sampler", "nll_loss2d", "ctc_loss", "embedding_bag", "put_"),
    *("histc", "bincount", "median", "scatter_reduce"),
)


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_torchs(
    old: tuple[int, int], new: Any, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *old, dtype=torch.float64).contiguous(memory_format=memory_format)
    theirs, ours = (maps.clone().requires_grad_() for _ in range(2))
    expected, found = nn.AdaptiveAvgPool2d(new)(theirs), FixedSizeAvgPool2d(new)(ours)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(expected)
    for values in (expected, found):
        (values * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("old", [(7, 7), (14, 14), (8, 8), (1, 1)])
def test_autocast_leaves_the_type_of_the_input(old: tuple[int, int]) -> None:
    pool = FixedSizeAvgPool2d(7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert pool(torch.ones(1, 2, *old, dtype=dtype)).dtype == dtype
    assert torch.equal(pool(torch.ones(2, *old)), torch.ones(2, 7, 7))  # of one image


@pytest.mark.parametrize(("name", "resolution"), [("vgg11", 32), ("vgg11", 256), ("alexnet", 96)])
def test_networks_have_torchvisions_weights_logits_and_graph(name: str, resolution: int) -> None:
    model = build(name, 10, seed=0).eval()
    assert not any(isinstance(module, nn.AdaptiveAvgPool2d) for module in model.modules())
    theirs = tv.get_model(name, weights=None, num_classes=10).eval()
    assert list(theirs.state_dict()) == list(model.state_dict())
    theirs.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, resolution, resolution)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images))
    ours, other = (anatomy(network, resolution).graph for network in (model, theirs))
    assert [(type(n), n.op, n.made, n.reads.tolist()) for n in ours.nodes] == [
        (type(n), n.op, n.made, n.reads.tolist()) for n in other.nodes
    ]
    assert torch.equal(ours.outputs, other.outputs)


@pytest.mark.parametrize("name", TRIED)
def test_no_network_needs_what_torch_refuses_in_deterministic_training(name: str) -> None:
    # RegNets decide on their widths by tensors, which must have values.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = build(name, 10, seed=0).to("meta").train()
    with _Operators() as operators:
        logits = model(torch.empty(2, 3, 224, 224, device="meta"))
        labels = torch.zeros(2, dtype=torch.int64, device="meta")
        functional.cross_entropy(logits, labels, label_smoothing=0.1).backward()
    assert "nll_loss_backward" in operators.names
    assert [found for found in operators.names if found.strip("_").startswith(REFUSED)] == []


class _Operators(TorchDispatchMode):
    """Notes which operators run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.partition("::")[2])
        return func(*args, **(kwargs or {}))
