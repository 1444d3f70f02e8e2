"""Labels: for each entry of a tensor the wire that it belongs to (int64). Functions on them alone.

Labels are compact: a dimension along which they do not change has size 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from distlth.models.graph import LIVE


def live(ndim: int) -> Tensor:
    """Return the labels of a tensor of `ndim` dimensions that is LIVE everywhere."""
    return torch.full([1] * ndim, LIVE)


def compact(labels: Tensor) -> Tensor:
    """Return labels without the dimensions along which they do not change (size 1 instead)."""
    for dim, size in enumerate(labels.shape):
        first = labels.narrow(dim, 0, 1)
        if size > 1 and (labels.stride(dim) == 0 or bool((labels == first).all())):
            labels = first
    return labels


def reshaped(labels: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Return compact labels of a tensor reshaped from `old` to `new`, still compact where they can be."""
    spread, shape = [], []
    for before, after in _matching(old, new):
        flat = all(labels.shape[dim] == 1 for dim in before)
        spread += [1 if flat else old[dim] for dim in before]
        shape += [1 if flat else new[dim] for dim in after]
    return labels.expand(spread).reshape(shape)


def _matching(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield runs of dimensions of two shapes that hold the same entries, in order."""
    left, right = list(range(len(old))), list(range(len(new)))
    while left or right:
        before, after = left[:1], right[:1]
        while (size := prod(old[dim] for dim in before)) != (wanted := prod(new[dim] for dim in after)):
            before, after = left[: len(before) + (size < wanted)], right[: len(after) + (wanted < size)]
        yield before, after
        left, right = left[len(before) :], right[len(after) :]


def rows(labels: Tensor, dims: Sequence[int]) -> Tensor:
    """Return labels as a matrix with one row for each index of `dims`."""
    others = [dim for dim in range(labels.ndim) if dim not in dims]
    return labels.permute([*dims, *others]).reshape(prod(labels.shape[dim] for dim in dims), -1)


def distinct(labels: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the distinct columns of the stacked labels, row by row, and each entry's place among them."""
    places = torch.zeros_like(labels[0])
    for label in labels:
        _, places = torch.unique(places * (int(label.max()) + 1) + label, return_inverse=True)
    columns = [torch.empty(int(places.max()) + 1, dtype=torch.int64) for _ in labels]
    for column, label in zip(columns, labels, strict=True):
        column[places] = label
    return tuple(columns), places
