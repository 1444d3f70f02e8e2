"""Iterative magnitude pruning: exact counts, the smallest weights first, ties in order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distlth.prune.magnitude import num_pruned, planned_kept, prune_magnitude
from distlth.prune.mask import Mask

Network = tuple[dict[str, torch.Tensor], Mask]
RATES = st.floats(0, 1, exclude_max=True)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Two or three layers with few distinct magnitudes (many ties and zeros), some of them empty."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = draw(st.sampled_from([1, 2, 5, 1000]))
    weights, kept = {}, {}
    for name in ("c", "a", "b")[: draw(st.integers(2, 3))]:
        shape = (draw(st.integers(1, 5)), draw(st.integers(1, 3)), 3, 3)
        weights[name] = torch.randint(-values, values + 1, shape, generator=generator).float()
        kept[name] = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return weights, Mask(kept)


def prune_by_sorting(weights: dict[str, torch.Tensor], mask: Mask, count: int) -> set[tuple[str, int]]:
    """The removed cells, by sorting all kept ones by (magnitude, layer order, flat index)."""
    cells = [
        (abs(float(weights[name].view(-1)[index])), order, index, name)
        for order, name in enumerate(mask)
        for index in torch.nonzero(mask[name].view(-1)).flatten().tolist()
    ]
    return {(name, index) for _, _, index, name in sorted(cells)[:count]}


@settings(deadline=None)
@given(networks(), RATES)
def test_removes_exactly_the_smallest_with_ties_in_order(network: Network, rate: float) -> None:
    weights, mask = network
    pruned = prune_magnitude(weights, mask, rate)
    removed = {
        (name, index)
        for name, kept in mask.items()
        for index in torch.nonzero((kept & ~pruned[name]).view(-1)).flatten().tolist()
    }
    assert removed == prune_by_sorting(weights, mask, round(rate * mask.kept))
    assert pruned.is_subset(mask)


@settings(deadline=None)
@given(networks(), st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.integers(0, 6))
def test_rounds_shrink_the_mask_as_planned(network: Network, rate: float, rounds: int) -> None:
    weights, mask = network
    kept = [mask.kept]
    for _ in range(rounds):
        pruned = prune_magnitude(weights, mask, rate)
        assert pruned.is_subset(mask)
        mask = pruned
        kept.append(mask.kept)
    assert kept == planned_kept(kept[0], rate, rounds)


def test_plan_of_the_paper_rate() -> None:
    assert planned_kept(1000, 0.2, 4) == [1000, 800, 640, 512, 410]
    assert planned_kept(0, 0.2, 2) == [0, 0, 0]
    assert num_pruned(10, 0.0) == 0


def test_first_layer_and_index_go_first_among_equals() -> None:
    weights = {"z": torch.ones(2, 2), "a": torch.ones(1, 2)}
    mask = Mask.dense({"z": (2, 2), "a": (1, 2)})
    assert prune_magnitude(weights, mask, 0.5)["z"].tolist() == [[False, False], [False, True]]
    assert prune_magnitude(weights, mask, 0.84)["a"].tolist() == [[False, True]]


def test_weights_with_gradients_and_channels_last_are_pruned_alike() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = Mask.dense({"a": (4, 3, 3, 3)})
    expected = prune_magnitude({"a": weight}, mask, 0.4)
    strided = weight.to(memory_format=torch.channels_last).requires_grad_()
    assert prune_magnitude({"a": strided}, mask, 0.4) == expected


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_outside_the_range_are_refused(rate: float) -> None:
    mask = Mask.dense({"a": (2, 2)})
    with pytest.raises(ValueError, match="rate must be at least 0 and below 1"):
        prune_magnitude({"a": torch.ones(2, 2)}, mask, rate)
    with pytest.raises(ValueError, match="rate must be at least 0 and below 1"):
        planned_kept(10, rate, 1)


def test_weights_that_are_not_numbers_are_refused() -> None:
    weights = {"a": torch.tensor([[1.0, float("nan")]])}
    with pytest.raises(ValueError, match="weight 'a' has NaN"):
        prune_magnitude(weights, Mask.dense({"a": (1, 2)}), 0.5)
    with pytest.raises(ValueError, match="rounds must not be negative"):
        planned_kept(10, 0.2, -1)
