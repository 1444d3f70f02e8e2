"""What refill and regroup make of depthwise convolutions, on MobileNet-v1."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from distlth.methods.base import Source
from distlth.methods.refill import Refill
from distlth.methods.regroup import Regroup
from distlth.models import Anatomy, anatomy, build, prunable
from distlth.models.alive import alive
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.ticket import Ticket, Trained
from distlth.train.masking import Masking, parameter_masks

DENSITY = 0.5
BLOCK = 3  # of the network's blocks, the one looked at


@dataclass(frozen=True)
class Pruned:
    """MobileNet-v1 with half of its weights."""

    model: nn.Module
    body: Anatomy
    mask: Mask

    def source(self, *names: str) -> Source:
        """What a method makes these layers' masks from; all layers' where none is named."""
        mask = Mask({name: self.mask[name] for name in names or self.mask.names})
        weights = {name: self.model.get_parameter(f"{name}.weight").detach() for name in mask.names}
        return Source(mask, Trained(mask, weights), mask.kept, seed=0)


@pytest.fixture(scope="module")
def pruned() -> Pruned:
    model = build("mobilenet_v1", 10, seed=0)
    body = anatomy(model, 32)
    shapes = {conv.name: conv.weight_shape for conv in prunable(body, "all")}
    weights = {name: model.get_parameter(f"{name}.weight").detach() for name in shapes}
    return Pruned(model, body, prune_magnitude(weights, Mask.dense(shapes), 1 - DENSITY))


def kept_channels(kept: Tensor) -> Tensor:
    return kept.flatten(1).any(dim=1)


def test_refill_chooses_the_filters_of_a_depthwise_layer_by_themselves(pruned: Pruned) -> None:
    """As many as the layer's density amounts to, the strongest; those that read nothing are not alive."""
    source = pruned.source()
    refilled = Refill(method="refill").make(source).mask
    before, layer = f"layers.{BLOCK - 1}.conv2", f"layers.{BLOCK}.conv1"
    fed, chosen = kept_channels(refilled[before]), kept_channels(refilled[layer])
    strength = (source.trained.weights[layer].abs() * source.mask[layer]).flatten(1).sum(dim=1)
    assert int(chosen.sum()) == -(-int(source.mask[layer].sum()) // 9) > int(fed.sum())
    assert strength[chosen].min() >= strength[~chosen].max()
    lives = alive(pruned.body.graph, dict(refilled.items()))
    assert torch.equal(kept_channels(lives[layer]), chosen & fed)
    assert torch.equal(lives[f"layers.{BLOCK}.conv2"].any(dim=0).flatten(), chosen & fed)


def test_channels_that_a_depthwise_layer_removes_or_is_not_given_are_exactly_zero(pruned: Pruned) -> None:
    """Behind its norm, in training and in evaluation, whatever the norm had learnt."""
    model = build("mobilenet_v1", 10, seed=0)
    refilled = Refill(method="refill").make(pruned.source()).mask
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * (parameter.ndim == 1))
    ticket = Ticket(refilled, {}, remove_channels=True)
    masking = Masking(model, parameter_masks(ticket, pruned.body, dict(model.named_parameters())))
    put_out: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _, out, name=name: put_out.update({name: out}))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fed = kept_channels(refilled["conv1"])
    for mode in (True, False):
        model.train(mode)(images).sum().backward()
        masking.mask_gradients()
        for block in range(13):
            depthwise, pointwise = (kept_channels(refilled[f"layers.{block}.conv{n}"]) for n in (1, 2))
            before = kept_channels(refilled[f"layers.{block - 1}.conv2"]) if block else fed
            first, second = (put_out[f"layers.{block}.bn{n}"] for n in (1, 2))
            assert not first[:, ~(depthwise & before)].any()
            assert not second[:, ~pointwise].any()
            gradients = model.get_parameter(f"layers.{block}.bn1.bias").grad
            assert gradients is not None
            assert not gradients[~(depthwise & before)].any()
    masking.check_zeros()


def test_regroup_leaves_a_depthwise_layer_as_it_is_and_says_so(pruned: Pruned) -> None:
    depthwise, pointwise = f"layers.{BLOCK}.conv1", f"layers.{BLOCK}.conv2"
    source = pruned.source(depthwise, pointwise)
    made = Regroup(method="regroup").make(source)
    assert list(made.ungrouped) == [depthwise]
    assert "depthwise" in made.ungrouped[depthwise]
    assert torch.equal(made.mask[depthwise], source.mask[depthwise])
    assert made.blocks[pointwise]
    assert not made.blocks[depthwise]
