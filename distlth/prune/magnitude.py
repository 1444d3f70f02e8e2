"""Iterative magnitude pruning: which weights go in one round, and how many stay after each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from distlth.prune.mask import Mask, check_weights


def num_pruned(remaining: int, rate: float) -> int:
    """How many of `remaining` weights one round removes: round(rate x remaining), halves to even.

    Raises ValueError unless 0 <= rate < 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be at least 0 and below 1, not {rate}")
    return round(rate * remaining)


def planned_kept(total: int, rate: float, rounds: int) -> list[int]:
    """The exact number of kept weights before and after each of `rounds` rounds of pruning.

    The list has `rounds` + 1 entries: entry r is what round r trains (entry 0 is `total`, dense), and entry
    r + 1 is what it leaves. Raises ValueError for a negative `rounds` or a rate outside [0, 1).
    """
    if rounds < 0:
        raise ValueError(f"rounds must not be negative, not {rounds}")
    kept = [total]
    for _ in range(rounds):
        kept.append(kept[-1] - num_pruned(kept[-1], rate))
    return kept


def prune_magnitude(weights: Mapping[str, Tensor], mask: Mask, rate: float) -> Mask:
    """The mask without the `num_pruned` kept weights of smallest magnitude over all layers together.

    `weights` holds one float32 CPU tensor for each layer of the mask, of its shape. Among equal magnitudes
    the weight in the earlier layer, then of the lower flat index, goes first. This is one round of IMP as
    in arXiv 2202.04736, section 3.1.

    Raises ValueError for weights that do not fit the mask or are not finite, and for a rate outside [0, 1).
    """
    check_weights(mask, weights)
    to_remove = num_pruned(mask.kept, rate)
    if to_remove == 0:
        return mask
    threshold = _kth_smallest_magnitude(weights, mask, to_remove)
    below = {name: kept & (weights[name].abs() < threshold) for name, kept in mask.items()}
    ties_to_remove = to_remove - sum(int(torch.count_nonzero(removed)) for removed in below.values())
    pruned = {}
    for name, kept in mask.items():
        tied = kept & (weights[name].abs() == threshold)
        removed = _first_true(tied, ties_to_remove)
        ties_to_remove -= int(torch.count_nonzero(removed))
        pruned[name] = kept & ~below[name] & ~removed
    return Mask(pruned)


def _kth_smallest_magnitude(weights: Mapping[str, Tensor], mask: Mask, k: int) -> float:
    """The k-th smallest magnitude (k from 1) among the kept weights, by selection instead of a sort."""
    magnitudes = np.concatenate([weights[name].detach()[kept].abs().numpy() for name, kept in mask.items()])
    magnitudes.partition(k - 1)
    return float(magnitudes[k - 1])


def _first_true(cells: Tensor, count: int) -> Tensor:
    """A bool tensor with only the first `count` True cells, in flat order; all of them if there are fewer."""
    first = torch.zeros(cells.numel(), dtype=torch.bool)
    if count > 0:
        first[torch.nonzero(cells.reshape(-1)).squeeze(1)[:count]] = True
    return first.view(cells.shape)
