"""What the jobs of a run took: hours of its ranks, and images a second."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distlth.config.schema import RunConfig
from distlth.run.results import EpochMetrics, JobResult

HOUR = 3600.0

Unit = Literal["GPU-hours", "core-hours", "rank-hours"]


@dataclass(frozen=True)
class Cost:
    """The jobs of one method on one kind of device.

    `hours` are the ranks' wall time, all together: of GPUs, or times the cores that each rank had; where the
    device is not known (`device` is empty, in results of earlier versions), of ranks. `images_per_second` is
    the median over the epochs, training images of all ranks.
    """

    method: str
    device: str
    unit: Unit
    jobs: int
    hours: float
    images_per_second: float | None


def costs(
    config: RunConfig, finished: Sequence[tuple[str, JobResult, Sequence[EpochMetrics]]]
) -> tuple[Cost, ...]:
    """Return what finished jobs took; each is a method, a result and its epochs."""
    groups: dict[tuple[str, str], list[tuple[JobResult, Sequence[EpochMetrics]]]] = {}
    for method, result, epochs in finished:
        groups.setdefault((method, _device(config, result)), []).append((result, epochs))
    return tuple(_cost(config, method, device, group) for (method, device), group in groups.items())


def total(found: Sequence[Cost]) -> tuple[Cost, ...]:
    """Return the sums over the methods, one for each kind of device."""
    kinds = dict.fromkeys((cost.device, cost.unit) for cost in found)
    return tuple(
        Cost(
            "all",
            device,
            unit,
            sum(cost.jobs for cost in found if cost.device == device),
            sum(cost.hours for cost in found if cost.device == device),
            None,
        )
        for device, unit in kinds
    )


def _device(config: RunConfig, result: JobResult) -> str:
    asked = config.cluster.device
    return result.device or ("" if asked == "auto" else asked)


def _cost(
    config: RunConfig, method: str, device: str, group: Sequence[tuple[JobResult, Sequence[EpochMetrics]]]
) -> Cost:
    hours = sum(result.seconds * result.world_size for result, _ in group) / HOUR
    unit: Unit = "GPU-hours" if device else "rank-hours"
    if device == "cpu":
        unit, hours = "core-hours", hours * config.cluster.cpus_per_worker
    speeds = [epoch.images_per_second for _, epochs in group for epoch in epochs]
    return Cost(method, device, unit, len(group), hours, statistics.median(speeds) if speeds else None)
