"""Refill: whole channels, exactly as many as planned, best first."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distlth.methods import Source
from distlth.methods.refill import Refill
from distlth.prune.channel_counts import num_channels
from distlth.prune.mask import Mask
from distlth.prune.refill import CRITERIA, channel_scores, refill
from distlth.ticket import Trained

Layer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
EXTRAS = st.integers(0, 20).map(lambda twentieths: twentieths / 20)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """A weight, its mask and its channels' activations, with few distinct values so that ties are common."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 8)), draw(st.integers(1, 3)), *draw(st.sampled_from([(1, 1), (3, 3)])))
    weight = torch.randint(-2, 3, shape, generator=generator).float()
    kept = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.2, 0.8, 1.0]))
    return weight, kept, torch.randint(0, 3, shape[:1], generator=generator).float()


def score(criterion: str, channel: int, layer: Layer) -> float:
    weight, kept, activations = layer
    if criterion == "remain":
        return int(kept[channel].sum())
    if criterion == "magnitude":
        return float((weight[channel].abs() * kept[channel]).sum())
    return float(activations[channel])


@settings(deadline=None)
@given(layers(), st.sampled_from(CRITERIA), EXTRAS)
def test_keeps_exactly_the_best_channels_whole(layer: Layer, criterion: str, extra: float) -> None:
    weight, kept, activations = layer
    refilled = refill(
        Mask({"a": kept}), {"a": weight}, criterion=criterion, extra=extra, activations={"a": activations}
    )
    count = num_channels(int(kept.sum()), tuple(kept.shape), extra)
    best_first = sorted(
        range(len(kept)),
        key=lambda channel: (-score(criterion, channel, layer), -score("magnitude", channel, layer), channel),
    )
    expected = torch.zeros_like(kept)
    expected[best_first[:count]] = True
    assert torch.equal(refilled["a"], expected)


@settings(deadline=None)
@given(layers())
def test_refill_without_extra_is_above_the_density_by_less_than_a_channel(layer: Layer) -> None:
    weight, kept, _ = layer
    refilled = refill(Mask({"a": kept}), {"a": weight})
    assert 0 <= refilled.kept - int(kept.sum()) < kept[0].numel() or not kept.any()


def test_the_options_of_a_branch_reach_the_mask() -> None:
    mask = Mask({name: torch.arange(36).reshape(4, 9) < kept for name, kept in (("a", 19), ("b", 14))})
    trained = Trained(mask, {name: torch.ones(4, 9) for name in mask})

    def counts(density: float = mask.density, **options: object) -> list[int]:
        made = Refill.model_validate({"method": "refill", **options}).make(
            Source(mask, trained, round(density * mask.total), 0)
        )
        return [int(kept.any(dim=1).sum()) for _, kept in made.mask.items()]

    assert counts() == [3, 2]
    assert counts(count="exact") == [2, 1]  # 33 weights are 3 channels and 6
    assert counts(count="exact", density=0.5) == [2, 2]  # the plan's 36, of which b's share is 1.7 channels
    assert counts(multiple=2) == [2, 2]  # 45 weights
    assert counts(multiple=4) == [4, 4]  # no layer gets 0
    assert counts(extra=0.5) == [3, 3]


def test_channel_scores_of_each_criterion() -> None:
    weight = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    mask = Mask({"a": torch.tensor([[True, True], [False, True]])})
    activations = {"a": torch.tensor([7.0, 8.0])}
    expected = {"remain": [2.0, 1.0], "magnitude": [3.0, 4.0]}
    for criterion in CRITERIA:
        scores = channel_scores(criterion, mask, {"a": weight}, activations)["a"]
        assert scores.dtype == torch.float64
        assert scores.tolist() == expected.get(criterion, [7.0, 8.0])


def test_every_layer_is_scored_by_its_own_activations() -> None:
    weights = {"a": torch.ones(2, 1), "b": torch.ones(2, 1)}
    mask = Mask({name: torch.tensor([[True], [False]]) for name in weights})
    activations = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([2.0, 1.0])}
    refilled = refill(mask, weights, criterion="l1", activations=activations)
    assert refilled["a"].tolist() == [[False], [True]]
    assert refilled["b"].tolist() == [[True], [False]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "taylor"}, "unknown refill criterion 'taylor'; known: remain, magnitude"),
        ({"criterion": "l2"}, "'l2' needs activations"),
        ({"criterion": "l1", "activations": {}}, "layer missing: a"),
        ({"criterion": "l1", "activations": {"a": torch.ones(3)}}, r"shape \(3,\), expected \(2,\)"),
        ({"criterion": "l1", "activations": {"a": torch.full((2,), float("nan"))}}, "NaN or infinite"),
        ({"count": "floor"}, "unknown channel count 'floor'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refill(Mask.dense({"a": (2, 2)}), {"a": torch.ones(2, 2)}, **options)  # type: ignore[arg-type]
