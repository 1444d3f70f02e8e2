"""A removed channel is exactly zero wherever it leads: on every classifier of torchvision, and by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.convnext import LayerNorm2d

from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.models import (
    Graph,
    Leak,
    anatomy,
    build,
    gates,
    leaks,
    names,
    prunable,
    removal,
    returning,
    zoo,
)
from distlth.models.trace import trace
from distlth.preflight import preflight
from distlth.prune.mask import Mask
from distlth.ticket import Ticket
from distlth.train.masking import Masking, parameter_masks

# Pixels: the smallest that a family takes; 64 elsewhere.
RESOLUTION = {**dict.fromkeys(zoo.CIFAR_TYPE, 32), "inception_v3": 96, "maxvit_t": 224, "vit": 224}

# Larger ones of a family, with the same code and the same kinds of connections, which take a minute of the
# test machine and more between them. EVERY_MODEL=1 runs them, too.
SAME_AS = {
    "convnext_tiny": ("convnext_small", "convnext_base", "convnext_large"),
    "densenet121": ("densenet161", "densenet169", "densenet201"),
    "efficientnet_b1": tuple(f"efficientnet_b{size}" for size in range(2, 8)),
    "efficientnet_v2_s": ("efficientnet_v2_m", "efficientnet_v2_l"),
    "regnet_x_1_6gf": ("regnet_x_3_2gf", "regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf"),
    "regnet_y_800mf": (*(f"regnet_y_{size}gf" for size in ("1_6", "3_2", "8", "16", "32", "128")),),
    "resnet20": ("resnet56",),
    "resnet50": ("resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    "resnext50_32x4d": ("resnext101_32x8d", "resnext101_64x4d"),
    "swin_t": ("swin_s", "swin_b"),
    "swin_v2_t": ("swin_v2_s", "swin_v2_b"),
    "vgg11": ("vgg13", "vgg16", "vgg19"),
    "vgg11_bn": ("vgg13_bn", "vgg16_bn", "vgg19_bn"),
    "vit_b_32": ("vit_b_16", "vit_l_16", "vit_l_32", "vit_h_14"),
}
LARGER = {larger for group in SAME_AS.values() for larger in group}
TRIED = [name for name in names() if name not in LARGER or os.environ.get("EVERY_MODEL")]

# Squeeze-and-excitation: what removing a channel of their second convolution does is a factor of 0.5.
GATED = ("efficientnet", "maxvit", "mobilenet_v3", "regnet_y")


# A removed channel's bias goes into a sum with the position embedding: no reader sees a constant.
NOTHING_TO_LEAK = tuple(name for name in names() if name.startswith("vit"))


@dataclass
class Inputs:
    """Of what a layer reads: which channels are the same everywhere, and which of these are not zero."""

    constant: Tensor
    leaking: Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def read(model: nn.Module, images: Tensor) -> dict[str, Inputs]:
    """What each convolution, linear layer and norm reads in a forward pass."""
    found: dict[str, Inputs] = {}

    def watch(name: str, module: nn.Module, axis: int) -> None:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            channels = inputs[0].movedim(axis, 0).flatten(1)
            constant = channels.amax(1) == channels.amin(1)
            found[name] = Inputs(constant, constant & (channels[:, 0] != 0))

        hooks.append(module.register_forward_pre_hook(note))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | _BatchNorm | LayerNorm2d):
            watch(name, module, 1)
        elif isinstance(module, nn.Linear | nn.LayerNorm):
            watch(name, module, -1)
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def thinned(shapes: Mapping[str, Sequence[int]], generator: torch.Generator) -> Mask:
    """A mask without a quarter of each layer's channels.

    In every other layer the first ones: whole groups of what follows, and the same of both summands.
    """
    layers = {}
    for place, (name, shape) in enumerate(shapes.items()):
        order = torch.arange(shape[0]) if place % 2 else torch.randperm(shape[0], generator=generator)
        layers[name] = torch.ones(tuple(shape), dtype=torch.bool)
        layers[name][order[: shape[0] // 4]] = False
    return Mask(layers)


def unsettle(model: nn.Module, generator: torch.Generator) -> None:
    """Give biases and norms values that would leak, and norms the running statistics of the last batch."""
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.rand(parameter.shape, generator=generator) + 0.5)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 1.0


@pytest.mark.parametrize("name", TRIED)
def test_removed_channels_are_zero_for_every_reader(name: str) -> None:
    """Nothing that a layer or norm reads is a constant other than zero, in training and in evaluation.

    In float64, and with running statistics of the same images, so that no channel that is alive is rounded
    to a constant.
    """
    size = next((size for start, size in RESOLUTION.items() if name.startswith(start)), 64)
    generator = torch.Generator().manual_seed(0)
    with one_thread():
        model = build(name, 10, seed=0)
        body = anatomy(model, size)
        shapes = {layer.name: layer.weight_shape for layer in prunable(body, "all")}
        assert leaks(body.graph, shapes) == ()
        assert bool(gates(body.graph, shapes)) == name.startswith(GATED)
        mask = thinned(shapes, generator)
        masks = parameter_masks(Ticket(mask, {}, remove_channels=True), body, dict(model.named_parameters()))
        unsettle(model, generator)
        images = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
        Masking(model, {f"{layer}.weight": kept for layer, kept in mask.items()})
        assert name in NOTHING_TO_LEAK or any(x.leaking.any() for x in read(model.train(), images).values())
        Masking(model, masks)
        training, evaluation = read(model.train(), images), read(model.eval(), images)
    assert not [layer for layer, inputs in training.items() if inputs.leaking.any()]
    # A channel that ReLU alone makes constant in evaluation was not in training.
    both = {layer: inputs.leaking & training[layer].constant for layer, inputs in evaluation.items()}
    assert not [layer for layer, leaking in both.items() if leaking.any()]


def test_every_classifier_is_tried_or_like_one_that_is() -> None:
    assert set(SAME_AS) <= set(TRIED)
    assert LARGER | set(TRIED) == set(names()) == {*zoo.CIFAR_TYPE, *tv.list_models(module=tv)}


@pytest.mark.parametrize(
    ("name", "stem"), [("resnet20", "cifar"), ("resnet18", "cifar"), ("resnet50", "imagenet")]
)
def test_residual_networks_lose_what_they_always_did(name: str, stem: Any) -> None:
    """The rows of each convolution and of the one norm behind it, and nothing else."""
    model = build(name, 10, seed=0, stem=stem)
    body = anatomy(model, 32)
    generator = torch.Generator().manual_seed(0)
    shapes = {layer.name: layer.weight_shape for layer in prunable(body, "all")}
    mask = thinned(shapes, generator)
    mask &= Mask({layer: torch.rand(shape, generator=generator) < 0.9 for layer, shape in shapes.items()})
    expected: dict[str, Tensor] = {}
    for layer, kept in mask.items():
        head, _, last = layer.rpartition(".")
        norm = f"{head}.{last.replace('conv', 'bn') if 'conv' in last else 1}".removeprefix(".")
        alive = kept.flatten(1).any(dim=1)
        expected |= {f"{layer}.weight": kept, f"{norm}.weight": alive, f"{norm}.bias": alive}
    expected = {parameter: kept for parameter, kept in expected.items() if not kept.all()}
    parameters = dict(model.named_parameters())
    found = parameter_masks(Ticket(mask, {}, remove_channels=True), body, parameters)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[parameter], kept) for parameter, kept in expected.items())
    left = parameter_masks(Ticket(mask, {}), body, parameters)
    assert left.keys() == {parameter for parameter in expected if parameter.removesuffix(".weight") in mask}


def test_the_layer_that_makes_the_logits_is_never_pruned() -> None:
    body = anatomy(build("squeezenet1_0", 10, seed=0), 64)
    assert body.graph.logits == {"classifier.1"}
    assert {layer.name for layer in body.convs} - {layer.name for layer in prunable(body, "all")} == {
        "classifier.1"
    }
    body = anatomy(build("resnet18", 10, seed=0), 64)
    assert body.graph.logits == {"fc"}
    assert prunable(body, "all") == body.convs


def graph_of(model: nn.Module) -> Graph:
    return trace(model.to("meta").train(), torch.empty(2, 3, 8, 8, device="meta"))


class Chain(nn.Module):
    """A convolution, a depthwise one and a grouped one, joined with another branch before a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.between = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, 1, groups=2)
        self.other = nn.Conv2d(3, 2, 3)
        self.late = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.between(self.depthwise(self.stem(x).relu())))
        y = torch.cat([self.other(x), self.grouped(y)], dim=1)
        y = y.unflatten(1, (4, 2)).transpose(1, 2).flatten(1, 2)  # channels 0 2 4 6 1 3 5 7
        logits: Tensor = self.head(self.late(y)).mean(dim=(2, 3))
        return logits


def test_removal_reaches_its_fixpoint_through_the_graph() -> None:
    graph = graph_of(Chain())
    kept = {
        "stem": torch.ones(4, 3, 1, 1, dtype=torch.bool),
        "other": torch.ones(2, 3, 3, 3, dtype=torch.bool),
    }
    kept["stem"][[0, 1, 3]] = False
    kept["other"][1] = False
    lost = {name: (~alive).nonzero().flatten().tolist() for name, alive in removal(graph, kept).items()}
    assert lost == {
        "stem.bias": [0, 1, 3],
        "depthwise.bias": [0, 1, 3],
        "between.weight": [0, 1, 3],
        "between.bias": [0, 1, 3],
        "grouped.bias": [0, 1, 2],  # the first group reads channels 0 and 1
        "other.bias": [1],
        "late.weight": [1, 2, 4, 5],  # 1, 2, 3 and 4 of the concatenation stand at 4, 1, 5 and 2
        "late.bias": [1, 2, 4, 5],
    }


class Residual(nn.Module):
    """Two branches that are added up, and a norm behind the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.a(x) + self.b(x)).mean((2, 3)))
        return logits


def test_a_sum_is_removed_where_both_summands_are() -> None:
    a, b = torch.ones(4, 3, 1, 1, dtype=torch.bool), torch.ones(4, 3, 1, 1, dtype=torch.bool)
    a[:2], b[1:3] = False, False
    graph = graph_of(Residual())
    found = removal(graph, {"a": a, "b": b})
    assert found["a.bias"].tolist() == [False, False, True, True]
    assert found["norm.weight"].tolist() == found["norm.bias"].tolist() == [True, False, True, True]
    back = returning(graph, {"a": a, "b": b}, {"a": torch.ones_like(a), "b": b})
    places = {name: entries.nonzero().flatten().tolist() for name, entries in back.items()}
    assert places == {"a.bias": [0, 1], "b.bias": [], "norm.weight": [1], "norm.bias": [1]}


class Shared(nn.Module):
    """One norm behind two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat([self.norm(self.a(x)), self.norm(self.b(x))], 1)).mean((2, 3))
        return logits


def test_a_norm_that_serves_two_layers_loses_what_neither_needs() -> None:
    graph = graph_of(Shared())
    a, b = torch.ones(4, 3, 1, 1, dtype=torch.bool), torch.ones(4, 3, 1, 1, dtype=torch.bool)
    a[:2], b[1:3] = False, False
    found = removal(graph, {"a": a, "b": b})
    assert found["norm.bias"].tolist() == [True, False, True, True]
    shapes = {"a": (4, 3, 1, 1), "b": (4, 3, 1, 1)}
    assert leaks(graph, shapes) == tuple(
        Leak(name, "the norm behind it serves other layers too") for name in "ab"
    )


class Between(nn.Module):
    """A convolution, something, and a convolution."""

    def __init__(self, something: nn.Module, first: nn.Module | None = None) -> None:
        super().__init__()
        self.first = first or nn.Conv2d(3, 4, 1)
        self.something, self.head = something, nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.something(self.first(x))).mean((2, 3))
        return logits


class Shift(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


class Scale(Shift):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.by


class Half(nn.Module):
    """Writes into a part of its input."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, :2] += 1
        return x


class Gate(nn.Module):
    """Squeeze-and-excitation without its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        factors: Tensor = self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        return x * factors


@pytest.mark.parametrize(
    ("something", "reason"),
    [
        (nn.Sigmoid(), "a removed channel is 0.5, not zero, where head reads it"),
        (nn.Softmax(dim=1), "a removed channel is 0.25, not zero, where head reads it"),
        (nn.BatchNorm2d(4, affine=False), "a removed channel goes into a norm without weights"),
        (
            nn.LayerNorm([8, 8], elementwise_affine=False),
            "a removed channel goes into a norm without weights",
        ),
        (Shift(4, 1, 1), "the parameter something.by is added to a removed channel"),
        (nn.LayerNorm(8), "native_layer_norm treats a removed channel and others alike"),
        (nn.Linear(8, 8), "addmm treats a removed channel and others alike"),
        (Half(), "a removed channel goes into an in-place write"),
    ],
)
def test_a_layer_whose_channels_leak_is_named(something: nn.Module, reason: str) -> None:
    assert leaks(graph_of(Between(something)), {"first": (4, 3, 1, 1)}) == (Leak("first", reason),)


@pytest.mark.parametrize(
    "something",
    [
        *(nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.ReLU6(), nn.PReLU(4), nn.Tanh()),
        *(nn.MaxPool2d(3, padding=1), nn.AvgPool2d(2), nn.Dropout(), nn.Upsample(scale_factor=2)),
        *(nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.ChannelShuffle(2), nn.ZeroPad2d(1)),
        *(Shift(4, 8, 8), Scale(4, 1, 1), nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(4))),
    ],
    ids=lambda module: str(module).partition("\n")[0],
)
def test_what_keeps_zeros_does_not_leak(something: nn.Module) -> None:
    assert leaks(graph_of(Between(something)), {"first": (4, 3, 1, 1)}) == ()


def test_a_removed_gate_is_a_factor() -> None:
    shapes = {"first": (4, 3, 1, 1), "something.squeeze": (4, 4, 1, 1)}
    graph = graph_of(Between(Gate()))
    assert leaks(graph, shapes) == ()
    assert gates(graph, shapes) == ("something.squeeze",)


def test_a_layer_with_computed_parameters_leaks() -> None:
    first = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))
    found = leaks(graph_of(Between(nn.ReLU(), first)), {"first": (4, 3, 1, 1)})
    assert found == (Leak("first", "its weight or bias is computed"),)


def test_a_model_that_leaks_is_refused_before_a_run(
    quickstart: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(zoo.CIFAR_TYPE, "leaky", lambda _: Between(nn.Sigmoid()))
    overrides = ["model.name=leaky", "model.stem=imagenet", f"data.path={digits.path}", "prune.scope=all"]
    message = (
        r"refill cannot remove channels of 1 layers of leaky \(first: a removed channel is 0.5, not zero"
    )
    with pytest.raises(ConfigError, match=message):
        preflight(load_config(quickstart, [*overrides, "prune.branches=[{method: refill}]"]))
    kept = preflight(load_config(quickstart, [*overrides, "prune.branches=[{method: refill, bn: keep}]"]))
    assert [layer.name for layer in kept.layers] == ["first"]
