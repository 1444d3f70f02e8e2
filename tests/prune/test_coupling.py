"""Coupled refill: the layers of a stream keep the same channels, and slim streams get narrower."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distlth.methods import Source
from distlth.methods.refill import Refill
from distlth.models import anatomy, build, prunable
from distlth.models.streams import streams
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.refill import refill
from distlth.slim import slim
from distlth.ticket import Ticket, Trained
from distlth.train.masking import Masking, parameter_masks

SIZE = 32


def test_channels_are_chosen_by_the_sum_of_scores_at_their_places() -> None:
    weights = {
        "a": torch.tensor([[9.0], [1.0], [2.0]]),
        "b": torch.tensor([[1.0, 1.0], [5.0, 5.0], [0.5, 0.5]]),
        "other": torch.tensor([[1.0], [2.0], [3.0]]),
    }
    stream = {"a": torch.tensor([0, 1, 2]), "b": torch.tensor([2, 1, 0])}  # sums 10, 11, 4
    dense = Mask.dense({name: weight.shape for name, weight in weights.items()})
    for count, multiple, expected in ((1, 1, {"a": [1], "b": [1]}), (2, 1, {"a": [0, 1], "b": [1, 2]})):
        kept = torch.zeros(3, dtype=torch.bool)
        kept[:count] = True
        part = Mask({name: kept[:, None].expand(each.shape) for name, each in dense.items()})
        found = refill(dense, weights, count="exact", total=part.kept, multiple=multiple, streams=[stream])
        assert {name: found[name].all(dim=1).nonzero().flatten().tolist() for name in stream} == expected
        assert int(found["other"].sum()) == count


def test_streams_are_the_layers_that_add_up() -> None:
    layers = {stage: {f"layer{stage}.{block}.conv2" for block in range(2)} for stage in (1, 2, 3, 4)}
    layers[1].add("conv1")
    for stage in (2, 3, 4):
        layers[stage].add(f"layer{stage}.0.downsample.0")
    assert [set(stream) for stream in found_streams("resnet18")] == list(layers.values())
    assert [len(stream) for stream in found_streams("resnet20")] == [4, 3, 3]  # each stage apart
    assert all(len(stream) > 1 for stream in found_streams("mobilenet_v2"))
    assert found_streams("vgg16_bn_cifar") == ()


def found_streams(name: str) -> Any:
    body = anatomy(build(name, 10, seed=0), SIZE)
    return streams(body.graph, {layer.name for layer in prunable(body, "all")})


@pytest.mark.parametrize("options", [{}, {"multiple": 8}, {"count": "exact", "extra": 0.1}])
def test_a_coupled_ticket_has_narrow_streams(options: dict[str, Any]) -> None:
    model = build("resnet18", 10, seed=0)
    body = anatomy(model, SIZE)
    dense = Mask.dense({layer.name: layer.weight_shape for layer in prunable(body, "all")})
    weights = {name: model.get_parameter(f"{name}.weight").detach() for name in dense}
    mask = prune_magnitude(weights, dense, 0.6)
    found = streams(body.graph, dense.names)
    source = Source(mask, Trained(mask, weights), mask.kept, 0, streams=found)
    made = Refill(method="refill", coupling="stream", **options).make(source)
    assert "streams keep" in made.costs["coupled"]
    for stream in found:
        kept = [made.mask[name].flatten(1).any(dim=1)[order] for name, order in stream.items()]
        assert all(torch.equal(kept[0], other) for other in kept)
        assert not options.get("multiple") or int(kept[0].sum()) % 8 == 0
    ticket = Ticket(made.mask, {}, remove_channels=True)
    Masking(model, parameter_masks(ticket, body, dict(model.named_parameters())))
    slimmed = slim(model.eval(), SIZE)
    assert not slimmed.whole
    width = slimmed.network.get_parameter("fc.weight").shape[1]
    assert width == int(made.mask["layer4.1.conv2"].flatten(1).any(dim=1).sum())
