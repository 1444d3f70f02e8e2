"""A slim network computes what the masked one does: classifiers by name, and each rule by hand."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distlth.export.export import TOLERANCE, largest_difference
from distlth.export.formats import safetensors_file
from distlth.export.parts import pack_parts
from distlth.export.saved import load_saved
from distlth.models import anatomy, build, names
from distlth.models.alive import alive
from distlth.slim import Slim, Sums, slim
from tests.slim.table import DOCUMENT, rows
from tests.slim.tickets import images, refilled, settle, ticket_of

# At most these shares of the parameters are left of a random ticket that keeps 60% of all channels.
CLASSIFIERS = {
    "alexnet": 0.75,
    "efficientnet_b0": 0.35,
    "googlenet": 0.4,
    "mobilenet_v2": 0.35,
    "regnet_x_400mf": 0.9,
    "resnet20": 0.6,
    "resnet50": 0.55,
    "shufflenet_v2_x0_5": 0.35,
    "squeezenet1_1": 0.4,
}


def exact_difference(masked: nn.Module, other: nn.Module, size: int) -> float:
    """How far logits differ in float64: in float32 deep networks round by the number of threads."""
    batch = images(size).double()
    with torch.no_grad():
        expected, found = (deepcopy(network).double().eval()(batch) for network in (masked, other))
    return float((expected - found).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_compute_the_same(name: str, tmp_path: Path) -> None:
    """And the whole network does with the slim one's weights in their places, as read from a file."""
    size = 64 if name in ("alexnet", "squeezenet1_1") else 32
    masked = ticket_of(name, size)
    found = slim(masked, size)
    slimmed, file = found.network, tmp_path / "ticket.safetensors"
    model = {"name": name, "stem": "imagenet", "num_classes": 10}
    about = {"model": model, "parts": pack_parts(found.parts)}
    file.write_bytes(safetensors_file(slimmed, size, about))
    loaded = load_saved(file).network
    assert isinstance(loaded, nn.Module)
    for network in (loaded, slimmed):
        assert exact_difference(masked, network, size) <= 1e-9
    assert _parameters(slimmed) <= CLASSIFIERS[name] * _parameters(masked)
    assert {name for name, _ in slimmed.named_parameters()} <= {name for name, _ in masked.named_parameters()}


@pytest.mark.parametrize("name", ["resnet20", "shufflenet_v2_x0_5"])
def test_counts_can_be_multiples(name: str) -> None:
    masked = ticket_of(name, 32)
    slimmed = slim(masked, 32, multiple=8).network
    assert largest_difference(masked, slimmed, 32) <= TOLERANCE
    whole = dict(masked.named_parameters())
    for key, parameter in slimmed.named_parameters():
        assert len(parameter) % 8 == 0 or len(parameter) == len(whole[key])


@pytest.mark.parametrize("name", ["vgg16_bn_cifar", "mobilenet_v1", "squeezenet1_1"])
def test_what_is_alive_is_what_the_slim_network_has(name: str) -> None:
    """Without sums, whose channels stay for each other; layer by layer, as both go along one graph."""
    model = build(name, 10, seed=0)
    mask = refilled(model, 32)
    left = slim(model, 32).network.state_dict()
    found = alive(anatomy(model, 32).graph, mask.layers)
    for layer, weights in found.items():
        assert int(weights.sum()) == int(left[f"{layer}.weight"].count_nonzero()), layer


def test_the_table_has_what_the_documents_promise() -> None:
    """At least 60 of torchvision's classifiers are equal up to 1e-5, or up to two of their own roundings."""
    table = {name: row for name, row in rows(DOCUMENT.read_text()).items() if name != "resnet20"}
    assert set(table) <= set(names())
    found = [re.search(r"\| (\de[+-]\d\d)(?: \(of (\de-\d\d)\))? \|", row) for row in table.values()]
    equal = [hit for hit in found if hit and float(hit[1]) <= max(TOLERANCE, 2 * float(hit[2] or 0))]
    assert len(equal) >= 60


class Everything(nn.Module):
    """Each kind of connection once, small."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.wide, self.wide_norm = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.narrow, self.narrow_norm = nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(16, 12, 3, groups=4)
        self.branch = nn.Conv2d(6, 6, 1)
        self.hidden, self.head = nn.Linear(12 * 9, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu_()
        y = nn.functional.silu(self.wide_norm(self.wide(x)))
        y = nn.functional.relu6(self.depthwise(y), inplace=True)
        y = y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = torch.cat([x, x + self.narrow_norm(self.narrow(y))], 1)
        x = nn.functional.max_pool2d(self.grouped(x).relu(), 2)
        x = x.unflatten(1, (2, 6)).transpose(1, 2).contiguous().view(x.shape[0], 12, 3, 3)
        first, second = x.chunk(2, 1)
        x = torch.cat([first, self.branch(second).relu()], 1)
        logits: Tensor = self.head(self.hidden(x.flatten(1)).relu())
        return logits


@settings(max_examples=4, derandomize=True)
@given(seed=st.integers(0, 10**6), density=st.floats(0, 1), remove=st.booleans())
def test_any_refill_mask(seed: int, density: float, remove: bool) -> None:
    torch.manual_seed(seed)
    model = Everything()
    refilled(model, 8, density=density, seed=seed, remove=remove)
    check(model)


def check(model: nn.Module, size: int = 8) -> Slim:
    """Make a network slim and compare the two in float64."""
    batch = torch.randn(5, 3, size, size, dtype=torch.float64)
    forms: tuple[Sums, ...] = ("scatter", "zeros")
    for form in forms:
        slimmed = slim(model.double().eval(), size, form)
        with torch.no_grad():
            torch.testing.assert_close(slimmed.network(batch), model(batch), rtol=1e-9, atol=1e-9)
    return slimmed


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def shapes(slimmed: Slim) -> dict[str, tuple[int, ...]]:
    """The shapes of a slim network's weights, by layer."""
    state = slimmed.network.state_dict()
    return {k.removesuffix(".weight"): tuple(v.shape) for k, v in state.items() if k.endswith(".weight")}


class Between(nn.Module):
    """Two convolutions with something between them; the first has lost channels 1 and 3."""

    def __init__(self, something: Any, *, bias: float = 0.0, **second: Any) -> None:
        super().__init__()
        self.first, self.something = nn.Conv2d(3, 4, 1), something
        self.second = nn.Conv2d(4, 6, **second)
        with torch.no_grad():
            self.first.weight[[1, 3]] = 0
            self.first.bias[[1, 3]] = bias  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(self.something(self.first(x))).mean((2, 3))
        return logits


def test_removed_channels_leave_layer_norm_and_reader() -> None:
    found = check(Between(nn.BatchNorm2d(4), kernel_size=1))
    assert found.removed == {"first": 2, "second": 0}
    assert shapes(found) == {"first": (2, 3, 1, 1), "something": (2,), "second": (6, 2, 1, 1)}


def test_a_constant_goes_into_the_bias_of_its_reader() -> None:
    for has_bias in (False, True):
        model = Between(nn.Sigmoid(), bias=0.7, kernel_size=3)
        model.second = nn.Conv2d(4, 6, 3, bias=has_bias)
        found = check(model)
        assert shapes(found)["second"] == (6, 2, 3, 3)
        assert "second.bias" in found.network.state_dict()


def test_a_constant_that_meets_a_border_stays_and_is_named() -> None:
    found = check(Between(nn.Sigmoid(), kernel_size=3, padding=1))
    assert shapes(found)["second"] == (6, 4, 3, 3)
    (whole,) = found.whole
    assert (whole.layer, whole.channels) == ("first", 2)
    assert "border" in whole.reason
    assert shapes(check(Between(nn.ReLU(), kernel_size=3, padding=1)))["second"] == (6, 2, 3, 3)


def test_what_cannot_be_followed_stays_whole_and_is_named() -> None:
    found = check(Between(nn.Softmax(dim=1), kernel_size=1))
    (whole,) = found.whole
    assert (whole.layer, whole.channels, whole.reason) == ("first", 2, "softmax")
    assert shapes(found)["first"] == (4, 3, 1, 1)


class Half(nn.Module):
    """Writes into a part of its input."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, 1:] += 1
        return x


def test_a_write_that_others_see_is_kept() -> None:
    check(Between(Half(), kernel_size=1))


def test_a_channel_that_nobody_reads_is_removed() -> None:
    model = Between(nn.ReLU(), kernel_size=3)
    with torch.no_grad():
        model.second.weight[:, 0] = 0
    assert shapes(check(model)) == {"first": (1, 3, 1, 1), "second": (6, 1, 3, 3)}


class Stream(nn.Module):
    """A stream into which two blocks write."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(channels, 4, 1) for channels in (3, 4, 4))
        with torch.no_grad():
            for layer, gone in ((self.stem, [0, 3]), (self.one, [1, 3]), (self.two, [0, 1, 3])):
                layer.weight[gone] = layer.bias[gone] = 0  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.one(x) + x
        logits: Tensor = (x.relu() + self.two(x.relu())).mean((2, 3))
        return logits


def test_blocks_add_into_a_stream_by_rows_of_zeros_or_scattered() -> None:
    model = Stream().double()
    check(model)
    forms: tuple[Sums, ...] = ("zeros", "scatter")
    left = {form: shapes(slim(model, 8, form)) for form in forms}
    assert {name: shape[0] for name, shape in left["zeros"].items()} == {"stem": 4, "one": 4, "two": 4}
    assert left["scatter"]["one"][0] == 2
    assert left["scatter"]["two"][0] == 1


def test_an_unstructured_ticket_has_nothing_to_remove() -> None:
    torch.manual_seed(0)
    model = Everything()
    settle(model, 8, torch.Generator().manual_seed(0))
    found = check(model)
    assert not any(found.removed.values())
    assert _parameters(found.network) == _parameters(model)
