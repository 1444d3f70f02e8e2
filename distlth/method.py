"""The method: how each job's mask comes from its parent's result (arXiv 2202.04736, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from distlth.config.schema import Refill, Regroup
from distlth.plan import Job
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.refill import refill
from distlth.prune.regroup import Block, LayerRegroup, assemble, regroup_layer

# Runs a function on each item, as `map` does, but where and how many at a time is the caller's.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Trained:
    """What a trained ticket leaves for its children: its mask, its convolutions' weights, channel scores."""

    mask: Mask
    weights: Mapping[str, Tensor]
    activations: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Structured:
    """A mask; with blocks for the layers that were regrouped and reasons for those that could not be."""

    mask: Mask
    blocks: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    ungrouped: Mapping[str, str] = field(default_factory=dict)


def next_mask(job: Job, parent: Trained, rate: float, run_map: Map = map) -> Structured:
    """The mask of a job: prune on the trunk, then refill or regroup where the job asks for it."""
    mask = parent.mask
    if job.is_trunk:
        mask = prune_magnitude(parent.weights, mask, rate)
    if isinstance(job.structure, Refill):
        return refilled(job.structure, mask, parent)
    if isinstance(job.structure, Regroup):
        return regrouped(job.structure, mask, parent, run_map)
    return Structured(mask)


def refilled(how: Refill, mask: Mask, trained: Trained) -> Structured:
    """Whole channels in place of scattered weights."""
    activations = trained.activations.get(how.criterion)
    return Structured(
        refill(mask, trained.weights, criterion=how.criterion, extra=how.extra, activations=activations)
    )


def regrouped(how: Regroup, mask: Mask, trained: Trained, run_map: Map) -> Structured:
    """Dense blocks in place of scattered weights, layer by layer."""
    layers = [(how, trained.weights[name], kept) for name, kept in mask.items()]
    whole = assemble(mask, dict(zip(mask.names, run_map(_regroup_layer, layers), strict=True)))
    return Structured(whole.mask, whole.blocks, whole.ungrouped)


def _regroup_layer(layer: tuple[Regroup, Tensor, Tensor]) -> LayerRegroup:
    how, weight, kept = layer
    return regroup_layer(weight, kept, columns=how.columns, min_rows=how.min_rows, t1=how.t1)
