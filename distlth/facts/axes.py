"""What accuracy is drawn and tabulated over: how sparse a ticket is, or how much time it saves."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distlth.facts.points import Point
from distlth.facts.rows import Results
from distlth.facts.times import TicketTime
from distlth.run.timings import Setting

# The share of the dense network that is left, or the share of its time that is saved.
Kind = Literal["left", "saved"]


@dataclass(frozen=True)
class Axis:
    """One way to measure a ticket; `value` returns a fraction, None where it is not known.

    `name` is part of file names, `column` heads a column, `note` says how a time was measured.
    """

    name: str
    label: str
    column: str
    value: Callable[[Point], float | None]
    kind: Kind = "left"
    note: str = ""

    def best(self, points: Sequence[Point]) -> Point | None:
        """Return the sparsest or fastest of the points whose value is known."""
        known = [point for point in points if self.value(point) is not None]
        sign = 1 if self.kind == "left" else -1
        return min(known, key=lambda point: sign * (self.value(point) or 0.0), default=None)


DENSITY = Axis("density", "density (kept weights)", "density", lambda point: point.density)
ALIVE = Axis(
    "alive",
    "alive density (kept weights that reach the output)",
    "alive",
    lambda point: point.alive_density,
)
MACS = Axis(
    "macs",
    "MACs (multiply-accumulates of alive weights, dense = 100%)",
    "MACs",
    lambda point: point.macs_share,
)

SHARES = (DENSITY, ALIVE, MACS)


@dataclass(frozen=True)
class TimeAxes:
    """The axes of one setting: time saved against the dense network, in eager PyTorch and at its fastest.

    `against_fastest` is None where eager PyTorch is the only runtime with a dense network, `against_eager`
    where it is not among them. `times` are those of the setting, by job.
    """

    setting: Setting
    times: Mapping[str, TicketTime]
    against_eager: Axis | None
    against_fastest: Axis | None

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Those that there are."""
        return tuple(axis for axis in (self.against_eager, self.against_fastest) if axis is not None)

    def saved(self, job: str) -> tuple[float | None, ...]:
        """Return what a job's ticket saves, on each of `axes`; None of one that is not measured."""
        time = self.times.get(job)
        eager, fastest = (time.saved_of_eager, time.saved_of_fastest) if time else (None, None)
        pairs = ((self.against_eager, eager), (self.against_fastest, fastest))
        return tuple(saved for axis, saved in pairs if axis is not None)


def share_axes(results: Results) -> tuple[Axis, ...]:
    """Return density, and the other shares where every ticket's is known."""
    return tuple(axis for axis in SHARES if all(axis.value(point) is not None for point in results.points))


def time_axes(results: Results, times: Sequence[TicketTime]) -> tuple[TimeAxes, ...]:
    """Return the axes of each setting that something was measured in, the one with most tickets first."""
    groups: dict[Setting, list[TicketTime]] = {}
    for time in times:
        groups.setdefault(time.setting, []).append(time)
    most_first = sorted(groups, key=lambda setting: -len(groups[setting]))
    slugs = _slugs(most_first)
    return tuple(_of_setting(results, setting, groups[setting], slugs[setting]) for setting in most_first)


def not_measured(results: Results, times: Mapping[str, TicketTime]) -> tuple[str, ...]:
    """Return the tickets that are not in `times`; the dense networks are measured beside each."""
    return tuple(row.job for row in results.rows if row.round > 0 and row.job not in times)


def _of_setting(results: Results, setting: Setting, times: Sequence[TicketTime], slug: str) -> TimeAxes:
    by_job = {time.job: time for time in times}
    jobs: dict[tuple[str, int], list[TicketTime]] = {}
    for row in results.rows:
        if row.job in by_job:
            jobs.setdefault((row.method, row.round), []).append(by_job[row.job])
    note = describe(setting)

    def axis(name: str, against: str, of: Callable[[TicketTime], float | None], dense: float | None) -> Axis:
        def value(point: Point) -> float | None:
            if point.round == 0:
                return dense
            return _mean([of(time) for time in jobs.get((point.method, point.round), ())])

        return Axis(
            f"{name}-{slug}",
            f"time saved against the dense network {against}",
            f"saved vs {name.removeprefix('time-')}",
            value,
            "saved",
            note,
        )

    fastest = ", ".join(dict.fromkeys(time.fastest_runtime for time in times))
    only_eager, has_eager = setting.dense_runtimes == ("eager",), "eager" in setting.dense_runtimes
    runtime_alone = _median([time.dense_saved_of_eager for time in times])
    return TimeAxes(
        setting,
        by_job,
        axis("time-eager", "in eager PyTorch", lambda time: time.saved_of_eager, runtime_alone)
        if has_eager
        else None,
        None
        if only_eager
        else axis(
            "time-fastest", f"where it is fastest ({fastest})", lambda time: time.saved_of_fastest, 0.0
        ),
    )


def describe(setting: Setting) -> str:
    """Return a setting in words."""
    batch = "1 image" if setting.batch == 1 else f"{setting.batch} images"
    if setting.device == "cuda":
        return f"{batch} at a time on {setting.chip} ({setting.host})"
    threads = "1 thread" if setting.threads == 1 else f"{setting.threads} threads"
    return f"{batch} at a time, {threads} of {setting.chip} ({setting.host})"


def _slugs(settings: Sequence[Setting]) -> dict[Setting, str]:
    """Return a name for the files of each setting, no two the same."""
    found: dict[Setting, str] = {}
    for setting in settings:
        host = re.sub(r"[^A-Za-z0-9]+", "-", setting.host)
        slug = f"{host}-{setting.device}-{setting.threads}threads-batch{setting.batch}"
        number = sum(other == slug or other.startswith(f"{slug}-") for other in found.values())
        found[setting] = f"{slug}-{number + 1}" if number else slug
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
