"""A ticket over several seeds: means, how far they spread, and whether it wins."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distlth.run.results import SplitName

if TYPE_CHECKING:
    from distlth.facts.rows import ResultRow


@dataclass(frozen=True)
class Spread:
    """A value over `count` seeds; `std` is the standard deviation of the sample, 0 of one value."""

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if values[1:] else 0.0, len(values))


@dataclass(frozen=True)
class Point:
    """A method's ticket of one round, over the seeds that have it.

    `density`, `alive_density`, `macs_share`, `top5` and `vs_dense` are means, on `split` (see `ResultRow`).
    `wins` says whether the mean top-1 is at least the dense network's less its standard deviation; None: no
    verdict.
    """

    method: str
    round: int
    is_trunk: bool
    density: float
    alive_density: float | None
    macs_share: float | None
    split: SplitName
    top1: Spread
    top5: float
    vs_dense: float | None
    wins: bool | None


def point(rows: Sequence[ResultRow], floor: float | None, seeds: int) -> Point:
    """Return the point of a method's rows of one round.

    `floor` is the least mean top-1 that wins, over `seeds` seeds or more; None: there is no verdict yet.
    """
    top1 = Spread.of([row.top1 for row in rows])
    wins = top1.mean >= floor if floor is not None and rows[0].round > 0 and top1.count >= seeds else None
    return Point(
        method=rows[0].method,
        round=rows[0].round,
        is_trunk=rows[0].is_trunk,
        density=statistics.fmean(row.density for row in rows),
        alive_density=_mean([row.alive_density for row in rows]),
        macs_share=_mean([row.macs_share for row in rows]),
        split=rows[0].split,
        top1=top1,
        top5=statistics.fmean(row.top5 for row in rows),
        vs_dense=_mean([row.vs_dense for row in rows]),
        wins=wins,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where a value is not known."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None
