"""Units: rows of a layer that are kept or removed together as one channel, such as those of a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from distlth.prune.coupling import Fill
from distlth.prune.mask import Mask

# For each layer whose channels are more than one row each: the rows (int64), units x rows of a unit.
Units = Mapping[str, Tensor]
Shapes = Mapping[str, Sequence[int]]


def fill_units(
    fill: Fill,
    mask: Mask,
    weights: Mapping[str, Tensor],
    measured: Mapping[str, Tensor] | None,
    units: Units,
) -> Mask:
    """Return the mask that `fill` makes where each unit is one channel, with all weights of its rows."""
    if not units:
        return fill(mask, weights, measured)
    joint = fill(
        Mask(in_units(mask.layers, units)),
        in_units({name: weight.detach() for name, weight in weights.items()}, units),
        measured and scores_in_units(measured, units),
    )
    return from_units(joint, mask.shapes, units)


def in_units(tensors: Mapping[str, Tensor], units: Units) -> dict[str, Tensor]:
    """Return tensors (C_out x ...) with one row for each unit: units x (rows of a unit x fan-in)."""
    return {
        name: tensor[units[name]].flatten(1) if name in units else tensor for name, tensor in tensors.items()
    }


def scores_in_units(scores: Mapping[str, Tensor], units: Units) -> dict[str, Tensor]:
    """Return channel scores (C_out) with one for each unit: the sum over its rows."""
    return {name: score[units[name]].sum(dim=1) if name in units else score for name, score in scores.items()}


def shapes_in_units(shapes: Shapes, units: Units) -> dict[str, tuple[int, ...]]:
    """Return the shapes that `in_units` gives tensors of these shapes."""
    return {
        name: (len(units[name]), units[name].shape[1] * prod(shape[1:])) if name in units else tuple(shape)
        for name, shape in shapes.items()
    }


def from_units(mask: Mask, shapes: Shapes, units: Units) -> Mask:
    """Return the mask of layers of these shapes that `in_units` turned into `mask`."""
    found = dict(mask.items())
    for name in mask.names & units.keys():
        found[name] = torch.empty(tuple(shapes[name]), dtype=torch.bool)
        found[name][units[name].flatten()] = mask[name].reshape(-1, *shapes[name][1:])
    return Mask(found)
