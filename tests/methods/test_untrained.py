"""GraSP and SynFlow by hand, and network slimming's scales: what is measured on small networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distlth.methods import Source
from distlth.methods.grasp import Grasp, gradient_flow
from distlth.methods.slimming import Slimming, scales
from distlth.methods.synflow import Synflow, synaptic_flow
from distlth.prune.mask import Mask
from distlth.ticket import Trained
from distlth.train.calibration import CalibrationRun
from distlth.train.pulse import Pulse
from tests.small_job import WORLD

Batches = list[tuple[Tensor, Tensor]]


def pointwise(*rows: list[float]) -> nn.Conv2d:
    """A 1x1 convolution without bias of these weights."""
    conv = nn.Conv2d(len(rows[0]), len(rows), 1, bias=False)
    conv.weight.data = torch.tensor(rows)[:, :, None, None]
    return conv


def calibration(model: nn.Module, layers: list[str], batches: Batches) -> CalibrationRun:
    return CalibrationRun(model.eval(), layers, batches, WORLD, Pulse())


def test_synaptic_flow_by_hand() -> None:
    # R = 1 (|3| + |-1|) + 2 (|1| + |-0.5|): the first layer's weights score 3, 1, 2, 1, the second's 4 and 3.
    model = nn.Sequential(pointwise([3.0, -1.0], [1.0, -0.5]), pointwise([-1.0, 2.0]), nn.Flatten())
    images: Batches = [(torch.randn(3, 2, 1, 1), torch.tensor([0, 0, 0]))]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = synaptic_flow(4 / 6, calibration(model, ["0", "1"], images))
    # First goes one of the two that score 1, the earlier; then, of 3, 2, 1, 3, 3, the last of that layer.
    assert {name: kept.flatten().tolist() for name, kept in found.items()} == {
        "0": [True, False, True, False],
        "1": [True, True],
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    # A third goes: the path 3 x 1 = 3 stays, the other one ends in its last two weights at once.
    once = synaptic_flow(2 / 6, calibration(model, ["0", "1"], images))
    assert {name: kept.flatten().tolist() for name, kept in once.items()} == {
        "0": [True, False, False, False],
        "1": [True, False],
    }


def test_synflow_keeps_the_plan() -> None:
    dense = Mask.dense({"a": (1, 4)})
    left = {"a": torch.tensor([[False, True, True, True]])}
    trained = Trained(dense, {}, {"synflow-0.500000000": left})
    made = Synflow(method="synflow").make(Source(dense, trained, 2, seed=0, density=0.5))
    assert made.mask["a"].tolist() == [[False, False, True, True]]


def test_gradient_flow_is_signed_and_that_of_the_hessian() -> None:
    conv = pointwise([2.0, -1.0], [0.5, 1.5], [-1.0, 0.25])
    model = nn.Sequential(conv, nn.Flatten())
    images = torch.randn(5, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    batches: Batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    found = gradient_flow(calibration(model, ["0"], batches))["0"]

    def loss(weight: Tensor) -> Tensor:
        return functional.cross_entropy(functional.conv2d(images, weight).flatten(1) / 200, labels)

    weight = conv.weight.detach()
    gradient = torch.autograd.functional.jacobian(loss, weight).flatten()
    hessian = torch.autograd.functional.hessian(loss, weight).reshape(6, 6)
    expected = weight.flatten() * (hessian @ gradient)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-12)
    assert (expected > 0).any()
    assert (expected < 0).any()
    assert conv.weight.grad is None
    dense = Mask.dense({"0": (3, 2, 1, 1)})
    made = Grasp(method="grasp").make(Source(dense, Trained(dense, {}, {"grasp": {"0": found}}), 2, seed=0))
    assert made.mask["0"].flatten().nonzero().flatten().tolist() == sorted(expected.argsort()[-2:].tolist())


def test_norms_use_a_batchs_statistics_and_keep_their_own() -> None:
    model = nn.Sequential(pointwise([2.0], [-1.0]), nn.BatchNorm2d(2), nn.Flatten())
    images, labels = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1, 1), torch.tensor([0, 1, 0])
    found = gradient_flow(calibration(model, ["0"], [(images, labels), (images[:1], labels[:1])]))["0"]
    # A norm makes scales of no effect: the gradient is next to none (epsilon), and so is what it costs.
    assert found.abs().max() < 1e-9
    assert model.state_dict()["1.running_mean"].tolist() == [0, 0]


class Half(nn.Module):
    """A layer with a norm behind it, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = pointwise([1.0], [1.0], [1.0]), nn.BatchNorm2d(3)
        self.last = pointwise([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
        self.norm.weight.data = torch.tensor([-2.0, 0.1, 1.0])

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.last(torch.relu(self.norm(self.first(images)))).flatten(1)
        return logits


def test_channels_go_by_the_scale_behind_them() -> None:
    images: Batches = [(torch.randn(3, 1, 1, 1), torch.tensor([0, 0, 0]))]
    found = scales(calibration(Half(), ["first", "last"], images))
    assert found["first"].tolist() == pytest.approx([2.0, 0.1, 1.0])
    assert found["last"].tolist() == [torch.inf, torch.inf]
    dense = Mask.dense({"first": (3, 1, 1, 1), "last": (2, 3, 1, 1)})
    slimming = Slimming(method="slimming")
    for kept, channels in ((8, [True, False, True]), (7, [True, False, False]), (2, [True, False, False])):
        made = slimming.make(Source(dense, Trained(dense, {}, {"slimming": found}), kept, seed=0))
        assert made.mask["first"].flatten().tolist() == channels
        assert made.mask["last"].all()
        assert list(made.ungrouped) == ["last"]
