"""The starts of a submitted run, which are counted: a run that gets no further is not requeued for ever."""

from __future__ import annotations

import socket
import time

from distlth.config.schema import RunConfig
from distlth.errors import RunError
from distlth.files import append_json, read_json_lines
from distlth.plan import plan
from distlth.run.paths import RunPaths
from distlth.run.results import run_progress


def check_progress(config: RunConfig, paths: RunPaths, job_id: str) -> None:
    """Record one more start of the run by the SLURM job `job_id`.

    Raises:
        RunError: its last starts, more than `cluster.retries` of them, all began where this one does.
    """
    reached = run_progress(paths, plan(config))
    starts = [start for start in read_json_lines(paths.attempts) if start["job"] == job_id]
    stalled = 0
    while stalled < len(starts) and starts[-1 - stalled]["reached"] == reached:
        stalled += 1
    if stalled > config.cluster.retries:
        raise RunError(
            f"{paths.root}: job {job_id} was started {stalled} times without coming further ({reached}); its "
            "logs say why (distlth logs); when that is mended: distlth resume"
        )
    append_json(
        paths.attempts,
        {"time": time.time(), "job": job_id, "node": socket.gethostname(), "reached": reached},
    )
