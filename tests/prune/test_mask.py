"""Masks: values that check themselves, count, compare, and survive packing and storage."""

import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distlth.prune.mask import Mask, PackedMask, check_weights


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    kernel = draw(st.sampled_from([(), (1, 1), (3, 3)]))
    return (draw(st.integers(1, 6)), draw(st.integers(1, 4)), *kernel)


@st.composite
def masks(draw: st.DrawFn, min_layers: int = 1) -> Mask:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    names = draw(st.permutations(["stem", "layer1.0.conv1", "layer1.0.conv2"]))
    count = draw(st.integers(min_layers, len(names)))
    return Mask({name: torch.rand(draw(shapes()), generator=generator) < density for name in names[:count]})


def flipped(mask: Mask, name: str, cell: int) -> Mask:
    kept = mask[name].clone()
    kept.view(-1)[cell] ^= True
    return mask.replace({name: kept})


@settings(deadline=None)
@given(masks())
def test_packed_and_stored_masks_come_back_equal(mask: Mask) -> None:
    packed = mask.pack()
    assert packed.unpack() == mask
    assert packed.digest() == mask.digest()
    assert pickle.loads(pickle.dumps(packed)) == packed
    assert pickle.loads(pickle.dumps(mask)) == mask
    shuffled = dict(sorted(mask.to_tensors().items(), reverse=True))
    restored = Mask.from_tensors(shuffled)
    assert restored == mask
    assert list(restored) == list(mask)


@settings(deadline=None)
@given(masks(), st.data())
def test_digest_and_equality_see_any_flipped_cell(mask: Mask, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(mask)))
    changed = flipped(mask, name, data.draw(st.integers(0, mask[name].numel() - 1)))
    assert changed != mask
    assert changed.digest() != mask.digest()
    assert len(mask.differences(changed)) == 1


@settings(deadline=None)
@given(masks(min_layers=2))
def test_digest_and_equality_see_names_shapes_and_order(mask: Mask) -> None:
    first, *others = mask
    renamed = Mask({"other" if name == first else name: kept for name, kept in mask.items()})
    reshaped = Mask({**mask.layers, first: mask[first].reshape(-1, 1, 1, 1, 1)})
    reordered = Mask({name: mask[name] for name in [*others, first]})
    for changed in (renamed, reshaped, reordered):
        assert changed != mask
        assert changed.digest() != mask.digest()
        assert mask.differences(changed)


@settings(deadline=None)
@given(masks(), st.integers(0, 2**32))
def test_intersection_is_the_largest_common_subset(mask: Mask, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    other = Mask({name: torch.rand(kept.shape, generator=generator) < 0.5 for name, kept in mask.items()})
    both = mask & other
    assert both.is_subset(mask)
    assert both.is_subset(other)
    assert both.kept == sum(int((kept & other[name]).sum()) for name, kept in mask.items())
    assert mask.is_subset(other) == (both == mask)


@settings(deadline=None)
@given(masks())
def test_counts_agree_with_the_cells(mask: Mask) -> None:
    assert mask.kept == sum(sum(kept.flatten().tolist()) for kept in mask.layers.values())
    assert mask.density == mask.kept / mask.total
    assert list(mask.layer_density()) == list(mask.names)
    for name, kept in mask.items():
        assert mask.empty_channels(name).tolist() == [not any(c.flatten().tolist()) for c in kept]


def test_dense_keeps_everything() -> None:
    mask = Mask.dense({"a": (2, 3, 1, 1), "b": [4, 5]})
    assert (mask.kept, mask.total, mask.density) == (26, 26, 1.0)
    assert mask.shapes == {"a": (2, 3, 1, 1), "b": (4, 5)}


def test_mask_does_not_share_the_tensors_it_was_made_from() -> None:
    kept = torch.ones(2, 2, dtype=torch.bool)
    mask = Mask({"a": kept})
    kept[0, 0] = False
    assert mask.kept == 4


def test_differences_say_what_differs() -> None:
    first = Mask({"a": torch.tensor([[True, True, False]]), "b": torch.ones(1, 1) > 0})
    second = Mask({"a": torch.tensor([[False, False, True]]), "c": torch.ones(1, 1) > 0})
    assert first.differences(second) == [
        "b: only in the first",
        "c: only in the second",
        "a: 2 kept only in the first, 1 only in the second",
    ]
    assert first.differences(first) == []


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({}, "at least one layer"),
        ({"a": torch.ones(2, 2)}, "'a' must be bool, not torch.float32"),
        ({"a": torch.ones(2, dtype=torch.bool)}, r"'a' has shape \(2,\)"),
        ({"a": torch.ones(0, 2, dtype=torch.bool)}, r"'a' has shape \(0, 2\)"),
        ({"a": torch.ones(2, 2, dtype=torch.bool, device="meta")}, "'a' must be on the CPU"),
        ({"": torch.ones(2, 2, dtype=torch.bool)}, "non-empty string"),
        ({"a": [[True]]}, "must be a tensor, not list"),
    ],
)
def test_wrong_layers_are_refused_by_name(layers: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mask(layers)


def test_masks_of_other_layers_do_not_combine() -> None:
    first, second = Mask.dense({"a": (2, 2)}), Mask.dense({"a": (2, 3)})
    for combine in (first.__and__, first.is_subset):
        with pytest.raises(ValueError, match=r"a: shape \(2, 2\) in the first, \(2, 3\) in the second"):
            combine(second)
    with pytest.raises(ValueError, match="not in the mask: z"):
        first.replace({"z": torch.ones(2, 2) > 0})
    with pytest.raises(KeyError, match="no layer 'z' in this mask; it has a"):
        first["z"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PackedMask(("a",), ((2, 2),), ()),
        lambda: PackedMask(("a",), ((2, 2),), (b"\xf0\x00",)),
        lambda: PackedMask(("a",), ((2, 2),), (b"\xff",)),
        lambda: PackedMask(("a", "a"), ((2, 2), (2, 2)), (b"\xf0", b"\xf0")),
        lambda: Mask.from_tensors({"weight": torch.ones(2)}),
        lambda: Mask.from_tensors({"00000/bits/a": torch.zeros(1, dtype=torch.uint8)}),
        lambda: Mask.from_tensors({"00000/shape/a": torch.tensor([2, 2])}),
    ],
)
def test_packed_parts_that_do_not_fit_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="mask"):
        make()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "missing: a"),
        ({"a": torch.ones(2, 2), "b": torch.ones(1)}, "not in the mask: b"),
        ({"a": torch.ones(2, 3)}, r"'a' has shape \(2, 3\), its mask \(2, 2\)"),
        ({"a": torch.ones(2, 2).double()}, "'a' is torch.float64 on cpu"),
        ({"a": torch.tensor([[1.0, float("nan")], [0.0, 0.0]])}, "'a' has NaN or infinite"),
        ({"a": torch.tensor([[1.0, float("inf")], [0.0, 0.0]])}, "'a' has NaN or infinite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(weights: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_weights(Mask.dense({"a": (2, 2)}), weights)
