"""Channels of several rows, such as heads: counts and choices by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distlth.methods import Source
from distlth.methods.magnitude_channels import MagnitudeChannels
from distlth.methods.nm import Nm
from distlth.methods.random_channels import RandomChannels
from distlth.methods.refill import Refill
from distlth.methods.slimming import Slimming
from distlth.prune.channel_counts import rounded_counts
from distlth.prune.mask import Mask
from distlth.prune.units import from_units, in_units, scores_in_units, shapes_in_units
from distlth.ticket import Trained

# Query, key and value of two heads of one channel each, of a layer that reads two; and an MLP's neurons.
HEADS = {"attn.in_proj_weight": torch.tensor([[0, 2, 4], [1, 3, 5]])}
QKV = torch.tensor([[1.0, 0], [9, 8], [2, 0], [0, 0], [3, 0], [0, 0]])
MLP = torch.tensor([[5.0, 1], [0, 0], [1, 1]])
WEIGHTS = {"attn.in_proj_weight": QKV, "mlp": MLP}


def source(measured: dict[str, dict[str, Tensor]] | None = None) -> Source:
    """What keeps all weights that are not zero."""
    mask = Mask({name: weight != 0 for name, weight in WEIGHTS.items()})
    return Source(mask, Trained(mask, WEIGHTS, measured or {}), mask.kept, seed=0, units=HEADS)


def kept_rows(mask: Mask) -> tuple[list[int], list[int]]:
    """The rows that each layer keeps; all of their weights, or none."""
    for _, kept in mask.items():
        assert torch.equal(kept.any(dim=1), kept.all(dim=1))
    first, second = (kept.any(dim=1).nonzero().flatten().tolist() for _, kept in mask.items())
    return first, second


def test_units_are_rows_side_by_side_and_come_back() -> None:
    found = in_units(WEIGHTS, HEADS)
    assert found["attn.in_proj_weight"].tolist() == [[1, 0, 2, 0, 3, 0], [9, 8, 0, 0, 0, 0]]
    assert found["mlp"] is MLP
    shapes = {name: weight.shape for name, weight in WEIGHTS.items()}
    assert shapes_in_units(shapes, HEADS) == {"attn.in_proj_weight": (2, 6), "mlp": (3, 2)}
    scores = {"attn.in_proj_weight": torch.arange(6.0), "mlp": torch.ones(3)}
    assert scores_in_units(scores, HEADS)["attn.in_proj_weight"].tolist() == [6, 9]
    mask = source().mask
    assert from_units(Mask(in_units(mask.layers, HEADS)), mask.shapes, HEADS) == mask


def test_refill_keeps_whole_heads_by_what_all_their_rows_keep() -> None:
    """5 of 12 weights are 5/6 of a head, so one; 4 of 6 are two neurons."""
    assert kept_rows(Refill(method="refill").make(source()).mask) == ([1, 3, 5], [0, 2])  # 17 against 6
    assert kept_rows(Refill(method="refill", criterion="remain").make(source()).mask) == ([0, 2, 4], [0, 2])
    measured = {
        "saliency": {"attn.in_proj_weight": torch.tensor([1.0, 2, 1, 1, 2, 0]), "mlp": torch.arange(3.0)}
    }
    made = Refill(method="refill", criterion="saliency").make(source(measured))
    assert kept_rows(made.mask) == ([0, 2, 4], [1, 2])  # 4 against 3
    assert kept_rows(Refill(method="refill", extra=1).make(source()).mask) == ([*range(6)], [0, 1, 2])


def test_other_methods_of_channels_keep_whole_heads() -> None:
    rows, neurons = kept_rows(RandomChannels(method="random-channels").make(source()).mask)
    assert rows in ([0, 2, 4], [1, 3, 5])
    assert len(neurons) == 2
    # 9 weights, 6 and 3 by size: the larger head, and one neuron and a half.
    best = MagnitudeChannels(method="magnitude-channels").make(source()).mask
    assert kept_rows(best) == ([1, 3, 5], [0])
    half = Nm(method="nm", pattern="1:2", within="refill").make(source()).mask
    assert half["attn.in_proj_weight"].sum(dim=1).tolist() in ([1] * 6, [0, 1] * 3)
    scales = {"attn.in_proj_weight": torch.tensor([9.0, 1, 1, 1, 1, 1]), "mlp": torch.tensor([3.0, 2, 0.5])}
    pruned = Slimming(method="slimming").make(source({"slimming": scales})).mask
    assert kept_rows(pruned) == ([0, 2, 4], [0])  # means of 11/3 and 1, and to 9 weights at most


def test_multiples_count_rows() -> None:
    shapes = {"heads": (12, 6), "rows": (12, 6)}
    counts = {"heads": 5, "rows": 5}
    assert rounded_counts(counts, shapes, 4, {"heads": 8}) == {"heads": 5, "rows": 4}
    assert rounded_counts(counts, shapes, 4, {"heads": 2})["heads"] % 2 == 0
    assert rounded_counts(counts, shapes, 1) == counts


def test_a_channel_budget_of_alive_weights_is_that_of_the_whole_layer() -> None:
    """Costs are counted on the layer's own rows, not on units."""
    seen = []

    class Cost:
        def __init__(self, weights: int) -> None:
            self.weights = self.macs = weights

    def count(kept: dict[str, Tensor], *, removed: bool) -> Cost:
        seen.append({name: tuple(mask.shape) for name, mask in kept.items()})
        return Cost(sum(int(mask.sum()) for mask in kept.values()))

    given = source()
    asked = Source(given.mask, given.trained, given.kept, 0, count_alive=count, units=HEADS)  # type: ignore[arg-type]
    made = Refill(method="refill", budget="alive").make(asked).mask
    assert all(shapes == {"attn.in_proj_weight": (6, 2), "mlp": (3, 2)} for shapes in seen)
    assert made.kept <= given.mask.kept or kept_rows(made)[0] in ([0, 2, 4], [1, 3, 5])


@pytest.mark.parametrize("name", ["attn.in_proj_weight"])
def test_masks_of_packed_weights_are_stored_like_any(name: str) -> None:
    mask = source().mask
    again = Mask.from_tensors(mask.to_tensors())
    assert again == mask
    assert name in again
    assert again.digest() == mask.digest()
