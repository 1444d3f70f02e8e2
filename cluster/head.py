"""The process beside `distlth run` that holds Ray: python -m cluster.head, fed through its standard input.

Ray ends the process that started it when its raylet or its GCS dies. That must not be the process that the
user waits for: this one may die at any time, and the command says what happened and cleans up.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil

from cluster.session import NAMESPACE, end_processes, start_ray
from distlth.run.config import JobConfig
from distlth.run.files import append_json
from distlth.run.paths import RunPaths

POLL_SECONDS = 0.5

# The coordinator imports torch and reads what is on disk before its first answer.
START_SECONDS = 300.0
DAEMONS = ("gcs_server", "raylet")


@dataclass(frozen=True)
class Ending:
    """How a run's training ended: `error` is the user's to mend, `lost` what of Ray died; neither: well."""

    error: str | None = None
    lost: str | None = None


class Orders:
    """What the process that started this one has said: its standard input, read by a thread."""

    def __init__(self, source: TextIO, folder: Path) -> None:
        first = json.loads(source.readline())
        self.config = JobConfig.model_validate(first["config"])
        self.run = RunPaths(Path(first["run"]))
        self.device: str = first["device"]
        self.folder = folder
        self.stop: str | None = None
        threading.Thread(target=self._listen, args=(source,), name="orders", daemon=True).start()

    def _listen(self, source: TextIO) -> None:
        for line in source:
            self.stop = line.strip()
        # The end of the input is the end of the process that wrote it.
        end_processes(self.folder)
        os._exit(1)


def main() -> None:
    """Run what is ordered, and say in one line of JSON how it ended."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints, prints into the log
    orders = Orders(sys.stdin, Path(sys.argv[1]))

    def reply(kind: str, value: Any) -> None:
        print(json.dumps({kind: value}), file=replies, flush=True)

    reply("ending", asdict(_run(orders, reply)))
    os._exit(0)  # threads of a lost session may never end


def _run(orders: Orders, reply: Callable[[str, Any], None]) -> Ending:
    def note(message: str) -> None:
        with suppress(OSError):
            append_json(orders.run.log, {"time": time.time(), "event": "ray", "message": message})

    config = orders.config
    start_ray(config.cluster, orders.device, orders.folder, note)
    import ray

    daemons = [child for child in psutil.Process().children() if child.name() in DAEMONS]
    try:
        ending = _Head(orders, daemons, reply).run_lanes()
    except ray.exceptions.RayError as error:
        ending = Ending(lost=f"the coordinator died ({_first_line(error)})")
    if ending.lost is None:
        ray.shutdown()
    return ending


def _ending_of_lane(error: BaseException) -> Ending:
    """Ranks that die start again; what ends a lane is the death of its controller, or a mistake."""
    import ray

    if isinstance(error, ray.exceptions.RayError):
        return Ending(lost=f"a lane's controller died ({_first_line(error)})")
    return Ending(error=f"a lane ended: {error}")


class _LostError(Exception):
    """A part of Ray that a run cannot do without is gone."""


class _Head:
    """Coordinator and lanes, watched until they end."""

    def __init__(
        self, orders: Orders, daemons: list[psutil.Process], reply: Callable[[str, Any], None]
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from cluster.coordinator import Coordinator
        from cluster.lane import LaneSpec, run_lane

        self.orders, self.daemons, self.reply = orders, daemons, reply
        self.said_unlogged = 0.0
        config = orders.config
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        name = f"coordinator-{config.name}"
        self.coordinator = Coordinator.options(  # type: ignore[attr-defined]
            name=name, namespace=NAMESPACE, scheduling_strategy=here
        ).remote(config, orders.run)
        self.lanes = [
            _Lane(run_lane, LaneSpec(index, name, config, orders.run, orders.device), orders.folder / "lanes")
            for index in range(config.cluster.lanes)
        ]
        self.told_to_stop = False

    def run_lanes(self) -> Ending:
        """Train until the run is over, or is to stop, or Ray is lost."""
        try:
            self.wait(self.coordinator.start.remote(), START_SECONDS)
            for lane in self.lanes:
                lane.start()
            while not (outcome := self.wait(self.coordinator.outcome.remote(POLL_SECONDS))).finished:
                self.tell_to_stop()
                self.say_unlogged(outcome.unlogged)
                for lane in self.lanes:
                    if lane.error is not None:
                        return _ending_of_lane(lane.error)
                if self.told_to_stop and not any(lane.is_alive() for lane in self.lanes):
                    break
            if outcome.error:
                return Ending(error=outcome.error)
            for lane in self.lanes:
                while lane.is_alive():
                    self.check_daemons()
                    lane.join(POLL_SECONDS)
            self.wait(self.coordinator.close.remote())
            return Ending()
        except _LostError as error:
            return Ending(lost=str(error))

    def tell_to_stop(self) -> None:
        """Hand a wish to stop on, once."""
        if self.orders.stop and not self.told_to_stop:
            self.wait(self.coordinator.stop.remote(self.orders.stop))
            self.told_to_stop = True

    def say_unlogged(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Say what the run's log did not take, each event once."""
        for event in events:
            if event["time"] > self.said_unlogged:
                self.said_unlogged = event["time"]
                self.reply("unlogged", event)

    def wait(self, reference: Any, at_least: float = 0.0) -> Any:
        """`ray.get` that ends when Ray does, or when there is no answer for as long as counts as death."""
        import ray

        deadline = time.monotonic() + max(self.orders.config.cluster.answer_seconds, at_least)
        while not ray.wait([reference], timeout=POLL_SECONDS)[0]:
            self.check_daemons()
            if time.monotonic() > deadline:
                raise _LostError("the coordinator does not answer")
        return ray.get(reference)

    def check_daemons(self) -> None:
        """Raise _LostError when a process of Ray's head has died."""
        for daemon in self.daemons:
            if not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE:
                raise _LostError(f"Ray's {daemon.name()} died")


class _Lane(threading.Thread):
    """Holds a lane's blocking call."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        super().__init__(name="lane", daemon=True)
        self._call, self._arguments = target, arguments
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._call(*self._arguments)
        except BaseException as error:
            self.error = error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


if __name__ == "__main__":
    main()
