"""Channel counts for refill: how many whole channels each layer keeps, in exact arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil, floor, gcd, prod

Shape = tuple[int, ...]

COUNTS = ("ceil", "exact")


def num_channels(kept: int, shape: Shape, extra: float = 0.0) -> int:
    """Return how many of a layer's C_out channels refill keeps (arXiv 2202.04736, section 3.2).

    With fan-in F = prod(shape[1:]) this is k = max(1, ceil(kept / F)), the paper's count: what the layer
    keeps, rounded up to whole channels. `extra` adds that share of the missing ones, floor((C_out - k) x
    extra): refill+. It is taken as the decimal number it prints as, so that 0.3 of 10 channels is 3.

    Raises ValueError for a count that the shape cannot hold, or an `extra` outside [0, 1].
    """
    return _with_extra(max(1, ceil(_equivalent(kept, shape))), shape[0], extra)


def channel_counts(
    kept: Mapping[str, int],
    shapes: Mapping[str, Shape],
    *,
    count: str = "ceil",
    extra: float = 0.0,
    multiple: int = 1,
    total: int | None = None,
    rows: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return how many channels each layer keeps, from 1 to C_out; `kept` are its kept weights.

    `count` is `ceil` (`num_channels`, layer by layer) or `exact` (`exact_counts` of `total` weights, by
    default those that are kept). `extra` adds that share of the channels missing then (refill+), and
    `multiple` rounds the result (`rounded_counts`). `rows` are those of a channel that has several, such as a
    head: `multiple` is one of rows.

    Raises ValueError for an unknown `count`, or a number out of range.
    """
    if count not in COUNTS:
        raise ValueError(f"unknown channel count {count!r}; known: {', '.join(COUNTS)}")
    if count == "exact":
        counts = exact_counts(kept, shapes, sum(kept.values()) if total is None else total)
    else:
        counts = {name: num_channels(kept[name], shape) for name, shape in shapes.items()}
    counts = {name: _with_extra(counts[name], shape[0], extra) for name, shape in shapes.items()}
    return rounded_counts(counts, shapes, multiple, rows)


def exact_counts(kept: Mapping[str, int], shapes: Mapping[str, Shape], total: int) -> dict[str, int]:
    """Return channel counts that hold `total` weights over all layers together.

    A layer's share of `total` is that of its kept weights, counted in its channels. Shares are rounded down,
    and what is left goes to whole channels by largest remainder, passing over those that do not fit; where
    remainders are equal the earlier layer comes first. So the counts hold `total` or less, by less than a
    channel of any layer that was rounded down. A layer whose share is below one channel keeps one all the
    same, and the others pay for it: more than `total` is held only where every layer has one channel left.
    """
    scale = Fraction(total, max(1, sum(kept.values())))
    shares = [
        min(_equivalent(kept[name], shape) * scale, Fraction(shape[0])) for name, shape in shapes.items()
    ]
    sizes = [prod(shape[1:]) for shape in shapes.values()]
    most = [shape[0] for shape in shapes.values()]
    return dict(zip(shapes, apportion(shares, sizes, most, total), strict=True))


def rounded_counts(
    counts: Mapping[str, int],
    shapes: Mapping[str, Shape],
    multiple: int,
    rows: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return the counts as multiples of `multiple` that hold the same total of weights.

    The same total: what all layers that change hold together stays what it was, or falls by less than
    `multiple` channels of any layer that was rounded down. So counts are rounded down, and then up again for
    the layers nearest to their next multiple, as long as the total allows. No layer is rounded to zero or
    above its C_out, which goes before the total: the others pay for a layer that this pushes up, and where
    they cannot the total moves. A layer of fewer than `multiple` channels, and one that keeps all of its own,
    stays as it is. Where a channel has several `rows`, `multiple` counts rows: of heads of 64 any number is a
    multiple of 8.

    Raises ValueError for a `multiple` below 1.
    """
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, not {multiple}")
    steps = {name: multiple // gcd(multiple, (rows or {}).get(name, 1)) for name in shapes}
    changing = {name: step for name, step in steps.items() if max(step, counts[name] + 1) <= shapes[name][0]}
    sizes = [prod(shapes[name][1:]) for name in changing]
    shares = [Fraction(counts[name], step) for name, step in changing.items()]
    total = sum(counts[name] * size for name, size in zip(changing, sizes, strict=True))
    most = [shapes[name][0] // step for name, step in changing.items()]
    weights = [step * size for step, size in zip(changing.values(), sizes, strict=True)]
    taken = apportion(shares, weights, most, total)
    return {**counts, **{name: step * n for (name, step), n in zip(changing.items(), taken, strict=True)}}


def apportion(shares: Sequence[Fraction], sizes: Sequence[int], most: Sequence[int], total: int) -> list[int]:
    """Return whole numbers near `shares`, from 1 to `most`, that weigh `total` or a little less.

    A unit of entry i weighs `sizes[i]`. Shares are rounded down. Where that weighs too much, since every
    entry has at least 1, units are taken from the entry furthest above its share; what is then left goes by
    units to the entry furthest below, where it fits. Among equals the earlier entry comes first.
    """
    counts = [max(1, min(floor(share), bound)) for share, bound in zip(shares, most, strict=True)]
    left = total - sum(count * size for count, size in zip(counts, sizes, strict=True))
    while left < 0 and (several := [i for i, count in enumerate(counts) if count > 1]):
        furthest = max(several, key=lambda i: counts[i] - shares[i])
        counts[furthest] -= 1
        left += sizes[furthest]
    bounds = [min(share, Fraction(bound)) for share, bound in zip(shares, most, strict=True)]
    while below := [i for i, count in enumerate(counts) if count < bounds[i] and sizes[i] <= left]:
        furthest = max(below, key=lambda i: shares[i] - counts[i])
        counts[furthest] += 1
        left -= sizes[furthest]
    return counts


def _equivalent(kept: int, shape: Shape) -> Fraction:
    """Return a layer's kept weights, counted in its channels."""
    if not 0 <= kept <= prod(shape):
        raise ValueError(f"a layer of shape {shape} cannot keep {kept} weights")
    return Fraction(kept, prod(shape[1:]))


def _with_extra(count: int, channels: int, extra: float) -> int:
    if not 0 <= extra <= 1:
        raise ValueError(f"extra must be from 0 to 1, not {extra}")
    return count + floor((channels - count) * Fraction(str(float(extra))))
