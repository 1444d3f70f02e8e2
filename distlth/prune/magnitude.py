"""Iterative magnitude pruning: which weights go in one round, and how many stay after each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from distlth.prune.mask import Mask, check_weights
from distlth.prune.scores import keep_best


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
    magnitudes = {name: weight.detach().abs() for name, weight in weights.items()}
    return keep_best(magnitudes, mask, mask.kept - num_pruned(mask.kept, rate))
