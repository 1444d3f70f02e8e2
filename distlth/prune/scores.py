"""From a score of every weight or channel to a mask: the best of all layers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from distlth.prune.mask import Mask, is_finite


def keep_best(scores: Mapping[str, Tensor], mask: Mask, count: int) -> Mask:
    """Return `mask` with only the `count` kept weights of best score over all layers together.

    `scores` holds one float CPU tensor for each layer of the mask, of its shape. Among equal scores the
    weight in the earlier layer, then of the lower flat index, goes first.

    Raises ValueError for scores that do not fit the mask or are not finite, and for a `count` outside
    0 .. `mask.kept`.
    """
    _check_scores(mask, scores)
    if not 0 <= count <= mask.kept:
        raise ValueError(f"cannot keep {count} of {mask.kept} weights")
    to_remove = mask.kept - count
    if to_remove == 0:
        return mask
    threshold = _kth_smallest(scores, mask, to_remove)
    below = {name: kept & (scores[name] < threshold) for name, kept in mask.items()}
    ties_to_remove = to_remove - sum(int(torch.count_nonzero(removed)) for removed in below.values())
    pruned = {}
    for name, kept in mask.items():
        tied = kept & (scores[name] == threshold)
        removed = _first_true(tied, ties_to_remove)
        ties_to_remove -= int(torch.count_nonzero(removed))
        pruned[name] = kept & ~below[name] & ~removed
    return Mask(pruned)


def keep_best_channels(scores: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], count: int) -> Mask:
    """Return the mask of whole output channels, the best of all layers together, that holds `count` weights.

    `scores` has C_out entries for each layer. Channels are removed worst first, among equal scores the
    earlier layer's, then that of the lower index, until no more than `count` weights are left. The last
    channel of a layer stays, and so do those of infinite score.
    """
    kept = {name: torch.ones(len(values), dtype=torch.bool) for name, values in scores.items()}
    left = {name: len(values) for name, values in scores.items()}
    total = sum(map(prod, shapes.values()))
    channels = [(name, index) for name, values in scores.items() for index in range(len(values))]
    values = np.concatenate([layer.numpy() for layer in scores.values()])
    order = np.argsort(values, kind="stable")
    for name, index in (channels[place] for place in order if np.isfinite(values[place])):
        if total <= count:
            break
        if left[name] > 1:
            kept[name][index] = False
            left[name] -= 1
            total -= prod(shapes[name][1:])
    return Mask({n: kept[n].view(-1, *[1] * (len(s) - 1)).expand(*s) for n, s in shapes.items()})


def _check_scores(mask: Mask, scores: Mapping[str, Tensor]) -> None:
    for name, kept in mask.items():
        if name not in scores or scores[name].shape != kept.shape:
            raise ValueError(f"layer {name!r} has no score for each weight")
        if not is_finite(scores[name]):
            raise ValueError(f"scores of {name!r} have NaN or infinite entries")


def _kth_smallest(scores: Mapping[str, Tensor], mask: Mask, k: int) -> float:
    """Return the k-th smallest score (k from 1) among the kept weights, by selection instead of a sort."""
    # Indexed by numpy, which is several times faster at that than torch.
    layers = [scores[name].detach().numpy()[kept.numpy()] for name, kept in mask.items()]
    values = np.concatenate(layers)
    values.partition(k - 1)
    return float(values[k - 1])


def _first_true(cells: Tensor, count: int) -> Tensor:
    """Return a bool tensor with only the first `count` True cells, in flat order, or all of fewer."""
    first = torch.zeros(cells.numel(), dtype=torch.bool)
    if count > 0:
        first[torch.nonzero(cells.reshape(-1)).squeeze(1)[:count]] = True
    return first.view(cells.shape)
