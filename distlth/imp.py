"""One step of iterative magnitude pruning: from a trained parent to the next ticket (section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distlth.errors import RunError
from distlth.methods import CountAlive, Map, Source
from distlth.plan import Job
from distlth.prune.magnitude import planned_kept, prune_magnitude
from distlth.prune.mask import Mask, weight_name
from distlth.ticket import Structured, Trained


def magnitude_mask(job: Job, parent: Trained, rate: float) -> Mask:
    """Return the unstructured mask that a job's mask is made from: the parent's, pruned on the trunk.

    `rate` is the share of the remaining weights that a round removes.
    """
    return prune_magnitude(parent.weights, parent.mask, rate) if job.is_trunk else parent.mask


def next_mask(
    job: Job,
    parent: Trained,
    rate: float,
    run_map: Map = map,
    count_alive: CountAlive | None = None,
    streams: Sequence[Mapping[str, Tensor]] = (),
    units: Mapping[str, Tensor] | None = None,
) -> Structured:
    """Return the mask of a job: its magnitude mask, made structured where the job's method does.

    `run_map` does a method's work on many layers, `count_alive` says what a mask costs, `streams` are what
    methods need that couple layers, `units` the layers whose channels are heads. A pure function.

    Raises:
        RunError: the mask would keep no weight at all.
    """
    mask = magnitude_mask(job, parent, rate)
    made = Structured(mask)
    if job.structure is not None:
        kept = planned_kept(mask.total, rate, job.round)[-1]
        source = Source(mask, parent, kept, job.seed, run_map, job.density, count_alive, streams, units or {})
        made = job.structure.make(source)
    if not made.mask.kept:
        raise RunError(
            f"job {job.id}: pruning leaves none of {made.mask.total:,} weights; use fewer prune.rounds"
        )
    return made


def rewind_refilled(
    trained: Mapping[str, Tensor],
    rewound: Mapping[str, Tensor],
    *,
    before: Mask,
    after: Mask,
    returning: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return `trained`, a whole state dict, with what refilling brought back reset to the `rewound` values.

    These are the weights that `after` keeps and `before` does not: in `trained` they are zero, or were about
    to be pruned (section 3.2: refilled weights are reset to the rewound ones, whatever the rest does). With
    a whole channel come back its bias and what norms do to it: the entries `returning` (bool, flat).
    """
    back = {weight_name(layer): kept & ~before[layer] for layer, kept in after.items()}
    weights = dict(trained)
    for name, cells in (*back.items(), *returning.items()):
        weights[name] = torch.where(cells.reshape(weights[name].shape), rewound[name], trained[name])
    return weights
