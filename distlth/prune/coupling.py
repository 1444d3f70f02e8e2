"""Coupled layers: those whose channels are kept or removed together, as one layer with all their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from distlth.prune.mask import Mask

# For each layer of a stream the channel (int64) at each place; channels at one place go together.
Stream = Mapping[str, Tensor]

# From a mask, the weights and what was measured of each layer's channels to a mask of whole channels.
Fill = Callable[[Mask, Mapping[str, Tensor], Mapping[str, Tensor] | None], Mask]


def fill_coupled(
    fill: Fill,
    mask: Mask,
    weights: Mapping[str, Tensor],
    measured: Mapping[str, Tensor] | None,
    streams: Sequence[Stream],
) -> Mask:
    """Return the mask that `fill` makes where the layers of each stream count as one."""
    if not streams:
        return fill(mask, weights, measured)
    joint = fill(
        coupled_mask(mask, streams),
        coupled({name: weights[name].detach() for name in mask}, streams),
        measured and coupled_scores({name: measured[name] for name in mask}, streams),
    )
    return uncoupled_mask(joint, mask, streams)


def coupled_mask(mask: Mask, streams: Sequence[Stream]) -> Mask:
    """Return a mask with one layer for each stream, called like its first, in place of its layers."""
    return Mask(coupled(mask.layers, streams))


def coupled(tensors: Mapping[str, Tensor], streams: Sequence[Stream]) -> dict[str, Tensor]:
    """Return tensors (C_out x ...) with those of each stream's layers side by side: C_out x all fan-ins."""
    found = dict(tensors)
    for stream in streams:
        first = next(name for name in tensors if name in stream)
        rows = [tensors[name][stream[name]].flatten(1) for name in tensors if name in stream]
        for name in stream:
            found.pop(name, None)
        found[first] = torch.cat(rows, dim=1)
    return {name: found[name] for name in tensors if name in found}


def coupled_scores(scores: Mapping[str, Tensor], streams: Sequence[Stream]) -> dict[str, Tensor]:
    """Return channel scores (C_out), summed over the layers of each stream."""
    columns = {name: score[:, None] for name, score in scores.items()}
    return {name: score.sum(dim=1) for name, score in coupled(columns, streams).items()}


def uncoupled_mask(joint: Mask, like: Mask, streams: Sequence[Stream]) -> Mask:
    """Return the mask of all layers from one of whole channels, as `coupled_mask` made it of `like`."""
    leaders = {name: next(n for n in like if n in stream) for stream in streams for name in stream}
    order = {name: places for stream in streams for name, places in stream.items()}
    found = {}
    for name, kept in like.items():
        if name not in leaders:
            found[name] = joint[name]
            continue
        channels = torch.zeros(kept.shape[0], dtype=torch.bool)
        channels[order[name]] = joint[leaders[name]].any(dim=1)
        found[name] = channels.reshape(-1, *[1] * (kept.ndim - 1)).expand(kept.shape)
    return Mask(found)
