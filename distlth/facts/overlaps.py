"""How much the masks of a run have in common: between its methods, rounds and seeds.

Login nodes import this module for its words, and should not wait for torch: only what reads masks imports it.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distlth.plan import Job
from distlth.run.paths import JobPaths, RunPaths

if TYPE_CHECKING:
    from distlth.prune.mask import Mask


@dataclass(frozen=True)
class KeptMask:
    """Where the mask of a finished ticket is."""

    seed: int
    method: str
    round: int
    paths: JobPaths

    def load(self) -> Mask | None:
        """Return the mask; None where it is not there."""
        from distlth.run.tickets import load_structured

        found = load_structured(self.paths)
        return found.mask if found else None


@dataclass(frozen=True)
class Overlap:
    """The intersection over union of two masks' kept weights, 0..1.

    `chance` is that of masks which keep as many weights of each layer, drawn at random.
    """

    iou: float
    chance: float


@dataclass(frozen=True)
class Overlaps:
    """What the masks have in common.

    `methods` are pairs of the latest round, `rounds` pairs of a method's rounds that follow each other, both
    of the first seed; `seeds` has the mean over all pairs of seeds, by method, in the latest round.
    """

    latest: int
    methods: Mapping[tuple[str, str], Overlap]
    rounds: Mapping[tuple[str, int, int], Overlap]
    seeds: Mapping[str, Overlap]


def kept_masks(run: RunPaths, jobs: Iterable[Job]) -> tuple[KeptMask, ...]:
    """Return the masks of finished tickets; the dense network has none to compare."""
    return tuple(KeptMask(job.seed, job.method, job.round, run.job(job.id)) for job in jobs if job.round > 0)


def read_overlaps(masks: Sequence[KeptMask]) -> Overlaps | None:
    """Return what masks have in common; None where there are none. The first one's seed counts as first.

    Raises:
        RunError: a file is damaged.
    """
    if not masks:
        return None
    latest = max(mask.round for mask in masks)
    first = [mask for mask in masks if mask.seed == masks[0].seed]
    return Overlaps(
        latest=latest,
        methods=_between_methods([mask for mask in first if mask.round == latest]),
        rounds=_between_rounds(first),
        seeds=_between_seeds([mask for mask in masks if mask.round == latest]),
    )


def overlap(first: Mask, second: Mask) -> Overlap:
    """Return what two masks of the same layers have in common."""
    both = sum(int((kept & second[name]).sum()) for name, kept in first.items())
    densities, others = first.layer_density(), second.layer_density()
    expected = sum(kept.numel() * densities[name] * others[name] for name, kept in first.items())
    return Overlap(_over_union(both, first, second), _over_union(expected, first, second))


def _over_union(both: float, first: Mask, second: Mask) -> float:
    return both / max(1.0, first.kept + second.kept - both)


def _between_methods(masks: Sequence[KeptMask]) -> dict[tuple[str, str], Overlap]:
    loaded = {mask.method: found for mask in masks if (found := mask.load())}
    return {
        (first, second): overlap(loaded[first], loaded[second])
        for first, second in itertools.combinations(loaded, 2)
    }


def _between_rounds(masks: Sequence[KeptMask]) -> dict[tuple[str, int, int], Overlap]:
    found: dict[tuple[str, int, int], Overlap] = {}
    for method in dict.fromkeys(mask.method for mask in masks):
        before: tuple[int, Mask] | None = None
        for mask in sorted((m for m in masks if m.method == method), key=lambda m: m.round):
            loaded = mask.load()
            if before is not None and loaded is not None:
                found[method, before[0], mask.round] = overlap(before[1], loaded)
            before = None if loaded is None else (mask.round, loaded)
    return found


def _between_seeds(masks: Sequence[KeptMask]) -> dict[str, Overlap]:
    found: dict[str, Overlap] = {}
    for method in dict.fromkeys(mask.method for mask in masks):
        loaded = [kept for mask in masks if mask.method == method and (kept := mask.load())]
        pairs = [overlap(first, second) for first, second in itertools.combinations(loaded, 2)]
        if pairs:
            found[method] = Overlap(
                statistics.fmean(pair.iou for pair in pairs), statistics.fmean(pair.chance for pair in pairs)
            )
    return found
