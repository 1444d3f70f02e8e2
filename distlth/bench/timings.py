"""The rows of `bench infer` as records of the run that the tickets are of."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version

from distlth.bench.infer import InferRow
from distlth.bench.machine import chip
from distlth.bench.runtimes import DENSE, RUNTIMES, Device
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.timings import NetworkTime, Setting, Timing

DTYPE = "float32"
LIBRARIES = ("distlth", "torch")


@dataclass(frozen=True)
class TimingWriter:
    """Writes what is measured of a run's tickets into the run.

    `results` are those of its finished jobs, by job id; `resolution` is the side of its images in pixels,
    `command` what was typed.
    """

    run: RunPaths
    results: Mapping[str, JobResult]
    resolution: int
    device: Device
    command: str

    def keep(self, rows: Sequence[InferRow]) -> None:
        """Write the rows of one ticket and batch: a file for each runtime."""
        measured = time.time()
        for runtime in dict.fromkeys(row.runtime for row in rows):
            self._timing(rows, runtime, measured).save(self.run)

    def _timing(self, rows: Sequence[InferRow], runtime: str, measured: float) -> Timing:
        first, ticket = rows[0], rows[0].ticket or ""
        dense = [row for row in rows if row.network == DENSE]
        return Timing(
            ticket=ticket,
            mask_digest=self.results[ticket].mask_digest,
            setting=Setting(
                host=platform.node(),
                chip=chip(self.device),
                device=self.device,
                threads=len(first.cores),
                batch=first.batch,
                dense_runtimes=tuple(row.runtime for row in dense),
            ),
            runtime=runtime,
            dtype=DTYPE,
            resolution=self.resolution,
            rounds=first.rounds,
            warm_ups=first.warm_ups,
            cores=first.cores,
            fastest=min(dense, key=lambda row: row.milliseconds).runtime if dense else None,
            networks=tuple(_network(row) for row in rows if row.runtime == runtime),
            versions={name: version(name) for name in (*LIBRARIES, *RUNTIMES[runtime].needs)},
            command=self.command,
            measured=measured,
        )


def _network(row: InferRow) -> NetworkTime:
    values = asdict(row)
    return NetworkTime(**{field.name: values[field.name] for field in fields(NetworkTime)})
