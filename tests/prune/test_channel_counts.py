"""Channel counts: the paper's, exact totals, multiples; exact arithmetic and deterministic ties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil, floor, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlth.models import anatomy, build, prunable
from distlth.prune.channel_counts import Shape, channel_counts, exact_counts, num_channels, rounded_counts
from distlth.prune.magnitude import planned_kept

Shapes = dict[str, Shape]
Counts = Mapping[str, int]
EXTRAS = st.integers(0, 20).map(lambda twentieths: twentieths / 20)


@st.composite
def networks(draw: st.DrawFn, most_channels: int = 40) -> tuple[Shapes, dict[str, int]]:
    """Shapes of a few layers, and how many weights each keeps."""
    sizes = st.tuples(st.integers(1, most_channels), st.integers(1, 9))
    shapes: Shapes = {
        f"layer{i}": shape for i, shape in enumerate(draw(st.lists(sizes, min_size=1, max_size=6)))
    }
    return shapes, {name: draw(st.integers(0, prod(shape))) for name, shape in shapes.items()}


def weights_in(counts: Counts, shapes: Shapes) -> int:
    return sum(count * prod(shapes[name][1:]) for name, count in counts.items())


@pytest.mark.parametrize(
    ("kept", "shape", "extra", "expected"),
    [
        (19, (4, 9), 0.0, 3),  # 2.1 channels
        (18, (4, 9), 0.0, 2),
        (0, (4, 9), 0.0, 1),
        (36, (4, 9), 0.0, 4),
        (1, (1, 1), 0.0, 1),
        (0, (10, 9), 0.3, 3),  # 1 + floor(9 x 0.3)
        (19, (4, 9), 1.0, 4),
        (46, (10, 9), 0.1, 6),  # 6 + floor(0.4)
        (0, (11, 9), 0.3, 4),  # 1 + 3: exactly, where floats have 2.9999999999999996
        (0, (1001, 9), 0.001, 2),
    ],
)
def test_the_papers_count(kept: int, shape: Shape, extra: float, expected: int) -> None:
    assert num_channels(kept, shape, extra) == expected


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), EXTRAS, st.data())
def test_the_papers_count_is_a_ceiling(channels: int, fan_in: int, extra: float, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, channels * fan_in))
    count = max(1, -(-kept // fan_in))
    more = (channels - count) * Fraction(round(extra * 20), 20)
    assert num_channels(kept, (channels, fan_in), extra) == count + floor(more)
    assert 0 <= num_channels(kept, (channels, fan_in)) * fan_in - kept < fan_in or kept == 0


@pytest.mark.parametrize(
    ("kept", "shapes", "expected"),
    [
        # Shares 2.5, 2.5 and 1.25: rounded down they leave 6 weights, a channel of a.
        ({"a": 10, "b": 10, "c": 10}, {"a": (4, 4), "b": (4, 4), "c": (4, 8)}, {"a": 3, "b": 2, "c": 1}),
        # The remainder of b is the larger one.
        ({"a": 5, "b": 7}, {"a": (4, 4), "b": (4, 4)}, {"a": 1, "b": 2}),
        # c's remainder is largest but 8 weights do not fit into the 6 that are left; a's 4 do.
        ({"a": 6, "b": 5, "c": 15}, {"a": (4, 4), "b": (4, 4), "c": (4, 8)}, {"a": 1, "b": 1, "c": 2}),
        # b keeps its last channel of 8 weights although its share is 1 weight; a gives what that costs.
        ({"a": 15, "b": 1}, {"a": (4, 4), "b": (4, 8)}, {"a": 2, "b": 1}),
        # Nothing is left to give: more than the total.
        ({"a": 0, "b": 0}, {"a": (4, 4), "b": (4, 8)}, {"a": 1, "b": 1}),
        ({"a": 16, "b": 32}, {"a": (4, 4), "b": (4, 8)}, {"a": 4, "b": 4}),
    ],
)
def test_exact_counts_by_hand(kept: Counts, shapes: Shapes, expected: Counts) -> None:
    assert exact_counts(kept, shapes, sum(kept.values())) == expected


@settings(deadline=None)
@given(networks())
def test_exact_counts_meet_the_total_to_less_than_a_channel(
    network: tuple[Shapes, dict[str, int]],
) -> None:
    shapes, kept = network
    total = sum(kept.values())
    counts = exact_counts(kept, shapes, total)
    assert all(1 <= counts[name] <= shape[0] for name, shape in shapes.items())
    missing = total - weights_in(counts, shapes)
    assert missing >= 0 or set(counts.values()) == {1}
    down = [prod(shape[1:]) for name, shape in shapes.items() if counts[name] * prod(shape[1:]) < kept[name]]
    assert missing <= 0 or missing < min(down)
    if all(kept[name] >= prod(shape[1:]) for name, shape in shapes.items()):
        assert all(abs(counts[name] - Fraction(kept[name], prod(shapes[name][1:]))) < 1 for name in shapes)


@pytest.mark.parametrize(
    ("counts", "shapes", "multiple", "expected"),
    [
        # 12 + 12 channels stay 24, the earlier layer first where both are as near.
        ({"a": 12, "b": 12}, {"a": (32, 9), "b": (32, 9)}, 8, {"a": 16, "b": 8}),
        ({"a": 9, "b": 15}, {"a": (32, 9), "b": (32, 9)}, 8, {"a": 8, "b": 16}),
        # 7 more channels of 9 weights are no multiple of 8: they go.
        ({"a": 15, "b": 16}, {"a": (32, 9), "b": (32, 9)}, 8, {"a": 8, "b": 16}),
        # Never 0: a's 4 missing channels are b's.
        ({"a": 4, "b": 20}, {"a": (32, 9), "b": (32, 9)}, 8, {"a": 8, "b": 16}),
        ({"a": 1}, {"a": (32, 9)}, 8, {"a": 8}),
        # Never above C_out, nor a multiple of what is smaller; a whole layer stays whole.
        ({"a": 18, "b": 3}, {"a": (20, 9), "b": (7, 9)}, 8, {"a": 16, "b": 3}),
        ({"a": 20, "b": 7}, {"a": (20, 9), "b": (7, 9)}, 8, {"a": 20, "b": 7}),
        ({"a": 5, "b": 3}, {"a": (20, 9), "b": (7, 9)}, 1, {"a": 5, "b": 3}),
    ],
)
def test_multiples_by_hand(counts: Counts, shapes: Shapes, multiple: int, expected: Counts) -> None:
    assert rounded_counts(counts, shapes, multiple) == expected


@settings(deadline=None)
@given(networks(), st.sampled_from([2, 3, 8]), st.sampled_from(["ceil", "exact"]), EXTRAS)
def test_multiples_hold_the_same_total(
    network: tuple[Shapes, dict[str, int]], multiple: int, count: str, extra: float
) -> None:
    shapes, kept = network
    before = channel_counts(kept, shapes, count=count, extra=extra)
    after = channel_counts(kept, shapes, count=count, extra=extra, multiple=multiple)
    changing = [name for name, shape in shapes.items() if shape[0] >= multiple and before[name] < shape[0]]
    for name, shape in shapes.items():
        assert 1 <= after[name] <= shape[0]
        assert after[name] == before[name] if name not in changing else after[name] % multiple == 0
    lost = weights_in(before, shapes) - weights_in(after, shapes)
    if all(multiple <= before[name] <= shapes[name][0] // multiple * multiple for name in changing):
        down = [multiple * prod(shapes[name][1:]) for name in changing if after[name] < before[name]]
        assert 0 <= lost < min(down, default=1)
        assert all(abs(after[name] - before[name]) < multiple for name in changing)
    else:  # the bounds moved the total, and no further than they must
        assert lost >= 0 or all(after[name] == multiple for name in changing)


def shapes_of(model: str) -> Shapes:
    layers = prunable(anatomy(build(model, 10, seed=0), 64), "all")
    return {layer.name: layer.weight_shape for layer in layers}


def inline_densities(shapes: Shapes, rule: Callable[[Counts, int], Counts], rounds: int) -> list[float]:
    """The densities of an inline run in which layers lose weights at uneven rates, by `rule`."""
    rng = np.random.default_rng(0)
    sizes = {name: prod(shape[1:]) for name, shape in shapes.items()}
    total = sum(prod(shape) for shape in shapes.values())
    counts: Counts = {name: shape[0] for name, shape in shapes.items()}
    densities = []
    for planned in planned_kept(total, 0.2, rounds)[1:]:
        kept = np.array([counts[name] * sizes[name] for name in shapes])
        lost = kept * rng.uniform(0.5, 1.5, len(kept))
        left = kept - np.minimum(lost * (0.2 * kept.sum() / lost.sum()), kept)
        counts = rule(dict(zip(shapes, left.astype(int).tolist(), strict=True)), planned)
        densities.append(weights_in(counts, shapes) / total)
    return densities


@pytest.mark.parametrize("model", ["resnet20", "resnet50"])
def test_only_exact_counts_keep_to_the_plan_over_ten_inline_rounds(model: str) -> None:
    shapes = shapes_of(model)
    total = sum(prod(shape) for shape in shapes.values())
    channel = max(prod(shape[1:]) for shape in shapes.values()) / total
    plan = [kept / total for kept in planned_kept(total, 0.2, 10)[1:]]
    assert plan[-1] == pytest.approx(0.107, abs=5e-4)

    exact = inline_densities(shapes, lambda kept, planned: exact_counts(kept, shapes, planned), 10)
    assert all(0 <= planned - found < channel for planned, found in zip(plan, exact, strict=True))

    for whole, above in ((ceil, True), (floor, False)):
        off = inline_densities(
            shapes,
            lambda kept, _, whole=whole: {  # type: ignore[misc]
                name: max(1, whole(Fraction(kept[name], prod(shape[1:])))) for name, shape in shapes.items()
            },
            10,
        )[-1]
        assert abs(off - plan[-1]) > channel
        assert (off > plan[-1]) == above


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": "floor"}, "unknown channel count 'floor'; known: ceil, exact"),
        ({"extra": 1.1}, "extra must be from 0 to 1"),
        ({"extra": float("nan")}, "extra must be from 0 to 1"),
        ({"multiple": 0}, "multiple must be at least 1, not 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        channel_counts({"a": 1}, {"a": (2, 2)}, **options)  # type: ignore[arg-type]


def test_more_weights_than_the_layer_has_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot keep 5 weights"):
        num_channels(5, (2, 2))
