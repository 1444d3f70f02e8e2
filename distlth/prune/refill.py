"""Refill: turn an unstructured mask into whole channels, the best of each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distlth.prune.channel_counts import channel_counts
from distlth.prune.coupling import Stream, fill_coupled
from distlth.prune.mask import Mask, check_weights

CRITERIA = ("remain", "magnitude", "l1", "l2", "saliency")


def channel_scores(
    criterion: str,
    mask: Mask,
    weights: Mapping[str, Tensor],
    activations: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """How much each output channel counts: one float64 tensor of C_out entries for each layer.

    `remain` counts a channel's kept weights; `magnitude` is the L1 norm of its kept weights. `l1` and `l2`
    (norms of its feature map) and `saliency` (|activation x gradient|) are measured elsewhere, over a
    calibration set in eval mode, and handed in as `activations`: one tensor of C_out entries for each layer.

    Raises ValueError for an unknown criterion, weights that do not fit the mask, or missing, misshapen or
    non-finite activations.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"unknown refill criterion {criterion!r}; known: {', '.join(CRITERIA)}")
    check_weights(mask, weights)
    if criterion == "remain":
        return {name: kept.flatten(1).sum(dim=1).double() for name, kept in mask.items()}
    if criterion == "magnitude":
        return {
            name: torch.from_numpy(_channel_magnitudes(kept, weights[name])) for name, kept in mask.items()
        }
    return _activation_scores(criterion, mask, activations)


def refill(
    mask: Mask,
    weights: Mapping[str, Tensor],
    *,
    criterion: str = "magnitude",
    count: str = "ceil",
    extra: float = 0.0,
    multiple: int = 1,
    total: int | None = None,
    activations: Mapping[str, Tensor] | None = None,
    streams: Sequence[Stream] = (),
) -> Mask:
    """Return the mask with as many fully dense output channels in each layer as `channel_counts` says.

    `count`, `extra`, `multiple` and `total` are its options. The other channels are empty. Channels are taken
    best score first (see `channel_scores` and `best_channels`). `weights` are the trained ones. The layers of
    a stream keep the channels at the same places, by the sum of their scores: they count as one layer.

    Raises ValueError as `channel_scores` and `channel_counts` do.
    """

    def fill(mask: Mask, weights: Mapping[str, Tensor], activations: Mapping[str, Tensor] | None) -> Mask:
        scores = channel_scores(criterion, mask, weights, activations)
        kept_weights = {name: mask.kept_in(name) for name in mask}
        counts = channel_counts(
            kept_weights, mask.shapes, count=count, extra=extra, multiple=multiple, total=total
        )
        return best_channels(mask, weights, scores, counts)

    return fill_coupled(fill, mask, weights, activations, streams)


def best_channels(
    mask: Mask, weights: Mapping[str, Tensor], scores: Mapping[str, Tensor], counts: Mapping[str, int]
) -> Mask:
    """Return the mask that keeps `counts` whole channels of each layer, best score first (C_out entries).

    Among equal scores the channel with the larger magnitude of weights kept in `mask`, then the lower index,
    comes first.
    """
    refilled = {}
    for name, kept in mask.items():
        magnitudes = partial(_channel_magnitudes, kept, weights[name])
        refilled[name] = _dense_channels(kept.shape, _best(scores[name].numpy(), magnitudes, counts[name]))
    return Mask(refilled)


def kept_magnitude(mask: Mask, before: Mask, weights: Mapping[str, Tensor]) -> float:
    """Return how much of the magnitude that `before` keeps a mask keeps, a fraction."""
    total = left = 0.0
    for name, kept in before.items():
        magnitude = weights[name].detach().abs().double() * kept
        total += float(magnitude.sum())
        left += float((magnitude * mask[name]).sum())
    return left / total if total else 0.0


def _channel_magnitudes(kept: Tensor, weight: Tensor) -> npt.NDArray[np.float64]:
    """The L1 norm of each channel's kept weights; numpy sums in one order whatever the number of threads."""
    magnitudes = weight.detach().abs().double().mul_(kept).flatten(1).numpy()
    return np.asarray(magnitudes.sum(axis=1))


def _activation_scores(
    criterion: str, mask: Mask, activations: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    if activations is None:
        raise ValueError(f"refill criterion {criterion!r} needs activations")
    return {name: _channel_activation(name, kept, activations) for name, kept in mask.items()}


def _channel_activation(name: str, kept: Tensor, activations: Mapping[str, Tensor]) -> Tensor:
    if name not in activations:
        raise ValueError(f"activations: layer missing: {name}")
    scores = activations[name].detach().double()
    if tuple(scores.shape) != (kept.shape[0],):
        raise ValueError(f"activations of {name!r}: shape {tuple(scores.shape)}, expected ({kept.shape[0]},)")
    if not torch.isfinite(scores).all():
        raise ValueError(f"activations of {name!r} have NaN or infinite entries")
    return scores.cpu()


def _best(
    scores: npt.NDArray[np.float64], magnitudes: Callable[[], npt.NDArray[np.float64]], count: int
) -> npt.NDArray[np.intp]:
    if len(np.unique(scores)) == len(scores):  # to sum up magnitudes takes longer than all the rest
        return np.argsort(-scores)[:count]
    # lexsort is stable and takes its last key first, so the index breaks what both keys leave tied.
    return np.lexsort((-magnitudes(), -scores))[:count]


def _dense_channels(shape: torch.Size, channels: npt.NDArray[np.intp]) -> Tensor:
    kept = torch.zeros(shape, dtype=torch.bool)
    kept[torch.from_numpy(channels)] = True
    return kept
