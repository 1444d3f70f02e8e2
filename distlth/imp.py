"""One step of iterative magnitude pruning: from a trained parent to the next ticket's mask (section 3.1)."""

from __future__ import annotations

from distlth.methods import Map, Source
from distlth.plan import Job
from distlth.prune.magnitude import planned_kept, prune_magnitude
from distlth.ticket import Structured, Trained


def next_mask(job: Job, parent: Trained, rate: float, run_map: Map = map) -> Structured:
    """Return the mask of a job: prune on the trunk, then make it structured where the job's method does.

    `rate` is the share of the remaining weights that a round removes; `run_map` does a method's work on
    many layers. A pure function.
    """
    mask = prune_magnitude(parent.weights, parent.mask, rate) if job.is_trunk else parent.mask
    if job.structure is None:
        return Structured(mask)
    kept = planned_kept(mask.total, rate, job.round)[-1]
    return job.structure.make(Source(mask, parent, kept, job.seed, run_map))
