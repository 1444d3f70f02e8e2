"""A run from start to end: opens the run directory, starts coordinator and lanes, and waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from cluster.session import NAMESPACE, ray_session, resolve_device
from distlth.errors import RunError
from distlth.preflight import preflight
from distlth.run.config import JobConfig
from distlth.run.files import append_json
from distlth.run.paths import RunPaths
from distlth.run.plan import plan
from distlth.run.store import load_results, open_run

POLL_SECONDS = 0.5


def run(
    config: JobConfig, show: Callable[[RunPaths], None], allowed_changes: Collection[str] = ()
) -> RunPaths:
    """Run or go on with a job until all its tickets are trained; calls `show` now and then.

    `allowed_changes` names what may differ from the run on disk, as `open_run` takes it.

    Raises:
        UserError: the job cannot run as it is, or a job of it cannot go on; says which and why.
    """
    found = preflight(config)
    device = resolve_device(config.cluster)
    paths = RunPaths(config.runs.absolute() / config.name)
    data = {"digest": found.dataset.digest, "classes": found.dataset.num_classes}
    open_run(paths, config, data, allowed_changes)
    if len(load_results(paths, plan(config))) < len(plan(config)):

        def note(message: str) -> None:
            append_json(paths.log, {"time": time.time(), "event": "ray", "message": message})

        with ray_session(config.cluster, device, note) as folder:
            _run_lanes(config, paths, device, folder, show)
    show(paths)
    return paths


def _run_lanes(
    config: JobConfig,
    paths: RunPaths,
    device: str,
    folder: Path,
    show: Callable[[RunPaths], None],
) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from cluster.coordinator import Coordinator
    from cluster.lane import LaneSpec, run_lane

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    name = f"coordinator-{config.name}"
    coordinator = Coordinator.options(  # type: ignore[attr-defined]
        name=name, namespace=NAMESPACE, scheduling_strategy=here
    ).remote(config, paths)
    ray.get(coordinator.start.remote())
    lanes = [
        _Lane(run_lane, LaneSpec(index, name, config, paths, device), folder / "lanes")
        for index in range(config.cluster.lanes)
    ]
    for lane in lanes:
        lane.start()
    while not (outcome := ray.get(coordinator.outcome.remote(POLL_SECONDS))).finished:
        show(paths)
        for lane in lanes:
            lane.check()
    if outcome.error:
        raise RunError(outcome.error)
    for lane in lanes:
        lane.join()
    ray.get(coordinator.close.remote())


class _Lane(threading.Thread):
    """Holds a lane's blocking call; an end before the run's is an error."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        super().__init__(name="lane", daemon=True)
        self._call, self._arguments = target, arguments
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._call(*self._arguments)
        except BaseException as error:
            self.error = error

    def check(self) -> None:
        """Raise what ended the lane, if anything did."""
        if self.error is not None:
            raise RunError(f"a lane ended: {self.error}") from self.error
