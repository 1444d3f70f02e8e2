"""How many weights each layer keeps: shares of a whole network's total, in exact arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import prod

from distlth.prune.channel_counts import apportion

Shape = tuple[int, ...]


def proportional(parts: Mapping[str, int], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Return whole numbers in the proportion of `parts`, none above its size, `total` together.

    A layer whose part would be above its size gets its size, and the others share what is left. What rounding
    leaves goes to the largest remainders. Each layer gets 1 at least, and all get their sizes where `total`
    is more than these come to.
    """
    whole: set[str] = set()
    while True:
        others = [name for name in parts if name not in whole]
        left = total - sum(sizes[name] for name in whole)
        scale = Fraction(left, max(1, sum(parts[name] for name in others)))
        full = {name for name in others if scale * parts[name] > sizes[name]}
        if not full:
            break
        whole |= full
    shares = [Fraction(sizes[name]) if name in whole else scale * part for name, part in parts.items()]
    counts = apportion(shares, [1] * len(shares), [sizes[name] for name in parts], total)
    return dict(zip(parts, counts, strict=True))


def uniform_counts(shapes: Mapping[str, Shape], total: int) -> dict[str, int]:
    """Return how many weights each layer keeps where all have one density, `total` over all layers."""
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    return proportional(sizes, sizes, total)


def erk_counts(shapes: Mapping[str, Shape], total: int) -> dict[str, int]:
    """Return how many weights each layer keeps by the Erdos-Renyi-kernel rule, `total` over all layers.

    The density of a layer of shape C_out x C_in x kh x kw is proportional to (C_out + C_in + kh + kw) /
    (C_out C_in kh kw), and at most 1 (Evci et al., arXiv 1911.11134, section 3).
    """
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    return proportional({name: sum(shape) for name, shape in shapes.items()}, sizes, total)
