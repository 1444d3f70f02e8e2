"""Alive weights and what they cost: by hand on tiny networks, and by gradients on whole ones."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from distlth.models import Graph, anatomy, build, prunable
from distlth.models.alive import alive, alive_density, count_alive, macs
from distlth.models.trace import trace
from distlth.prune.mask import Mask
from distlth.ticket import Ticket
from distlth.train.masking import Masking, parameter_masks


class Tiny(nn.Module):
    """Two convolutions on 8 x 8 pixels, the second of stride 2, and a classifier."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first, self.between = nn.Conv2d(3, 4, 1, bias=False), between
        self.second, self.head = nn.Conv2d(4, 2, 3, stride=2, padding=1, bias=False), nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.between(self.first(x))).mean((2, 3)))
        return logits


FIRST_MACS, SECOND_MACS, HEAD_MACS = 4 * 3 * 64, 2 * 4 * 9 * 16, 2 * 5


def traced(model: nn.Module) -> Graph:
    return trace(model.to("meta").train(), torch.empty(2, 3, 8, 8, device="meta"))


def kept(**dropped: tuple[int, ...]) -> dict[str, Tensor]:
    """All weights of both convolutions but those of these output channels."""
    masks = {
        "first": torch.ones(4, 3, 1, 1, dtype=torch.bool),
        "second": torch.ones(2, 4, 3, 3, dtype=torch.bool),
    }
    for name, rows in dropped.items():
        masks[name][list(rows)] = False
    return masks


def test_a_dense_network_is_all_alive() -> None:
    graph = traced(Tiny(nn.ReLU()))
    assert alive_density(graph, kept()) == 1
    assert macs(graph) == count_alive(graph, kept()).macs == FIRST_MACS + SECOND_MACS + HEAD_MACS


def test_weights_on_removed_channels_are_not_alive() -> None:
    graph, mask = traced(Tiny(nn.BatchNorm2d(4))), kept(first=(0,), second=(1,))
    found = alive(graph, mask)
    assert torch.equal(found["first"], mask["first"])
    assert found["second"].flatten(2).any(2).tolist() == [[False, True, True, True], [False] * 4]
    assert alive_density(graph, mask) == (9 + 27) / (12 + 72)
    assert count_alive(graph, mask).macs == 9 * 64 + 27 * 16 + 5


def test_without_removal_a_norm_feeds_its_bias_on() -> None:
    graph, mask = traced(Tiny(nn.BatchNorm2d(4))), kept(first=(0,))
    assert alive(graph, mask, removed=False)["second"].all()
    assert not alive(traced(Tiny(nn.ReLU())), mask, removed=False)["second"][:, 0].any()


def test_weights_whose_output_nobody_uses_are_not_alive() -> None:
    mask = kept()
    mask["second"][:, 2] = False
    found = alive(traced(Tiny(nn.Hardswish())), mask)
    assert found["first"].flatten(1).all(1).tolist() == [True, True, False, True]


def test_a_channel_that_all_statistics_share_is_used() -> None:
    mask = kept()
    mask["second"][:, 2] = False
    assert alive(traced(Tiny(nn.GroupNorm(1, 4))), mask)["first"].all()


def by_gradients(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Kept weights whose input is somewhere not zero, and whose output has a gradient somewhere."""
    inputs, gradients = {}, {}

    def note(name: str, module: nn.Module) -> None:
        def on_forward(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name] = args[0].detach().abs().amax((0, 2, 3)) > 0
            output.register_hook(lambda grad: gradients.update({name: grad.abs().amax((0, 2, 3)) > 0}))

        module.register_forward_hook(on_forward)

    for name in masks:
        note(name, model.get_submodule(name))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model.train()(images).logsumexp(1).sum().backward()
    found = {}
    for name, mask in masks.items():
        groups = len(inputs[name]) // mask.shape[1]
        fed = inputs[name].reshape(groups, 1, -1) & gradients[name].reshape(groups, -1, 1)
        found[name] = mask & fed.reshape(*mask.shape[:2], 1, 1)
    return found


@pytest.mark.parametrize(
    ("name", "density"), [("resnet50", 0.154), ("shufflenet_v2_x0_5", None), ("densenet121", None)]
)
def test_alive_is_what_carries_values_and_gradients(name: str, density: float | None) -> None:
    """A ResNet-50 with a third of each layer's channels has half of that alive."""
    model, generator = build(name, 10, seed=0), torch.Generator().manual_seed(0)
    body = anatomy(model, 32)
    layers = {}
    for layer in prunable(body, "all"):
        layers[layer.name] = torch.zeros(layer.weight_shape, dtype=torch.bool)
        count = max(1, round(0.327 * layer.weight_shape[0]))
        layers[layer.name][torch.randperm(layer.weight_shape[0], generator=generator)[:count]] = True
    masks = parameter_masks(Ticket(Mask(layers), {}, True), body, dict(model.named_parameters()))
    Masking(model, masks)
    expected, found = by_gradients(model, layers), alive(body.graph, layers)
    assert all(torch.equal(found[layer], expected[layer]) for layer in layers)
    if density is not None:
        assert alive_density(body.graph, layers) == pytest.approx(density, abs=0.005)
