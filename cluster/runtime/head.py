"""The process beside `distlth run` that holds Ray: python -m cluster.runtime.head, fed through stdin.

Ray ends the process that started it when its raylet or its GCS dies. That must not be the process that the
user waits for: this one may die at any time, and the command says what happened and cleans up.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import psutil

from cluster.runtime.placement import fewest_nodes
from cluster.runtime.rendezvous import Rendezvous
from cluster.runtime.session import NAMESPACE, NODE_LABEL, end_processes, start_ray
from distlth.config.schema import ClusterSection, RunConfig
from distlth.files import append_json
from distlth.run.paths import RunPaths

if TYPE_CHECKING:
    from cluster.runtime.messages import LaneSpec

POLL_SECONDS = 0.5
NODE_POLL_SECONDS = 2.0

# The coordinator imports torch and reads what is on disk before its first answer.
START_SECONDS = 300.0
DAEMONS = ("gcs_server", "raylet")


@dataclass(frozen=True)
class Ending:
    """How a run's training ended: `error` is the user's to mend, `lost` what of Ray died; neither: well.

    `again`: the nodes that are left can go on at once.
    """

    error: str | None = None
    lost: str | None = None
    again: bool = False


@dataclass(frozen=True)
class Order:
    """A job, and how many nodes are to train it. `rendezvous` is None where this machine is the only one."""

    config: RunConfig
    run: RunPaths
    device: str
    rendezvous: Rendezvous | None
    node_wait_seconds: float

    @classmethod
    def parse(cls, order: Mapping[str, Any]) -> Order:
        """From the JSON that the process which started this one sends."""
        return cls(
            config=RunConfig.model_validate(order["config"]),
            run=RunPaths(Path(order["run"])),
            device=order["device"],
            rendezvous=Rendezvous(Path(order["rendezvous"])) if order["rendezvous"] else None,
            node_wait_seconds=order["node_wait_seconds"],
        )


class Orders:
    """What the process that started this one says: its standard input, read by a thread."""

    def __init__(self, source: TextIO, folder: Path) -> None:
        self.folder = folder
        self.stop: str | None = None
        self._jobs: queue.SimpleQueue[Order] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(source,), name="orders", daemon=True).start()

    def next_job(self) -> Order:
        """Wait for a job."""
        return self._jobs.get()

    def _listen(self, source: TextIO) -> None:
        for line in source:
            said = json.loads(line)
            if "stop" in said:
                self.stop = said["stop"]
            else:
                self._jobs.put(Order.parse(said))
        # The end of the input is the end of the process that wrote it.
        end_processes(self.folder)
        os._exit(1)


Reply = Callable[[str, Any], None]


def main() -> None:
    """Run what is ordered, and say in one line of JSON how it ended."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints, prints into the log
    folder, address = Path(sys.argv[1]), sys.argv[2]

    def reply(kind: str, value: Any) -> None:
        print(json.dumps({kind: value}), file=replies, flush=True)

    reply("ending", asdict(_run(Orders(sys.stdin, folder), address, reply)))
    os._exit(0)  # threads of a lost session may never end


def _run(orders: Orders, address: str, reply: Reply) -> Ending:
    order = orders.next_job()
    run = order.run

    def note(message: str) -> None:
        with suppress(OSError):
            append_json(run.log, {"time": time.time(), "event": "ray", "message": message.partition("\n")[0]})

    least = fewest_nodes(order.config.cluster)
    start_ray(order.config.cluster, order.device, orders.folder, address, note)
    import ray

    try:
        watch = RayWatch()
        if order.rendezvous:
            cluster = order.config.cluster
            reply("started", ray.get_runtime_context().gcs_address)
            watch.gather(cluster.nodes, order.node_wait_seconds, lambda: orders.stop is not None)
            if orders.stop:
                return Ending()
            if len(watch.nodes) < least:
                return Ending(lost=watch.missing(cluster, order.node_wait_seconds))
            reply("nodes", len(watch.nodes))
            order = orders.next_job()
        ending = _Head(order, orders, watch, reply).run_lanes()
    except LostError as error:
        again = error.nodes_left >= least
        ending = Ending(lost=str(error), again=again)
    except ray.exceptions.RayError as error:
        ending = Ending(lost=f"the coordinator died ({_first_line(error)})")
    return ending


def _ending_of_lane(error: BaseException) -> Ending:
    """Ranks that die start again; what ends a lane is the death of its controller, or a mistake."""
    import ray

    if isinstance(error, ray.exceptions.RayError):
        return Ending(lost=f"a lane's controller died ({_first_line(error)})")
    return Ending(error=f"a lane ended: {error}")


class LostError(Exception):
    """A part of Ray that a run cannot do without is gone; `nodes_left` could go on without it."""

    def __init__(self, message: str, nodes_left: int = 0) -> None:
        super().__init__(message)
        self.nodes_left = nodes_left


class RayWatch:
    """Ray's daemons on this machine, and the nodes that have joined."""

    def __init__(self) -> None:
        self.daemons = [child for child in psutil.Process().children() if child.name() in DAEMONS]
        self.nodes = self._alive()
        self._looked = time.monotonic()

    def gather(self, nodes: int, seconds: float, is_over: Callable[[], bool]) -> None:
        """Wait until so many nodes have joined, or for so long."""
        deadline = time.monotonic() + seconds
        while len(self.nodes) < nodes and time.monotonic() < deadline and not is_over():
            time.sleep(POLL_SECONDS)
            self.check()
            self.nodes = self._alive()

    def missing(self, config: ClusterSection, seconds: float) -> str:
        """Which nodes did not join, for people."""
        here = ", ".join(sorted(self.nodes.values()))
        return (
            f"{len(self.nodes)} of {config.nodes} nodes joined in {seconds:g} s ({here}), "
            f"{fewest_nodes(config)} are needed (cluster.min_nodes); the others' logs say why"
        )

    def check(self) -> None:
        """Raise LostError when a process of Ray's head has died, or a node."""
        for daemon in self.daemons:
            if not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE:
                raise LostError(f"Ray's {daemon.name()} died")
        if len(self.nodes) > 1 and time.monotonic() - self._looked > NODE_POLL_SECONDS:
            self._looked = time.monotonic()
            alive = self._alive()
            gone = sorted(name for node, name in self.nodes.items() if node not in alive)
            if gone:
                left = len(self.nodes) - len(gone)
                raise LostError(f"node {', '.join(gone)} is lost, {left} of {len(self.nodes)} left", left)

    @staticmethod
    def _alive() -> dict[str, str]:
        import ray

        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        return {node["NodeID"]: node["Labels"].get(NODE_LABEL, node["NodeManagerHostname"]) for node in nodes}


class _Head:
    """Coordinator and lanes, watched until they end."""

    def __init__(self, order: Order, orders: Orders, watch: RayWatch, reply: Reply) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from cluster.runtime.coordinator import Coordinator
        from cluster.runtime.messages import LaneSpec

        self.orders, self.watch, self.reply = orders, watch, reply
        self.said_unlogged = 0.0
        self.config = config = order.config
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        name = f"coordinator-{config.name}"
        self.coordinator = Coordinator.options(  # type: ignore[attr-defined]
            name=name, namespace=NAMESPACE, scheduling_strategy=here
        ).remote(config, order.run)
        specs = [
            LaneSpec(index, name, config, order.run, order.device) for index in range(config.cluster.lanes)
        ]
        shared = order.rendezvous.lanes if order.rendezvous else orders.folder / "lanes"
        self.lanes = [_Lane(spec, shared) for spec in specs]
        self.told_to_stop = False

    def run_lanes(self) -> Ending:
        """Train until the run is over, or is to stop; LostError where Ray is lost."""
        started = self.coordinator.start.remote()
        for lane in self.lanes:  # they take as long to load what they need as the coordinator does
            lane.start()
        self.wait(started, START_SECONDS)
        while not (outcome := self.wait(self.coordinator.outcome.remote(POLL_SECONDS))).finished:
            self.tell_to_stop()
            self.say_unlogged(outcome.unwritten)
            for lane in self.lanes:
                if lane.error is not None:
                    self.watch.check()
                    return _ending_of_lane(lane.error)
            if self.told_to_stop and (outcome.quiet or not any(lane.is_alive() for lane in self.lanes)):
                break
        if outcome.error:
            return Ending(error=outcome.error)
        # Ray Train takes seconds to take a lane down: a run that is to stop may not have them.
        while not outcome.quiet and any(lane.is_alive() for lane in self.lanes):
            self.watch.check()
            time.sleep(POLL_SECONDS / 10)
        self.wait(self.coordinator.close.remote())
        return Ending()

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

        deadline = time.monotonic() + max(self.config.cluster.answer_seconds, at_least)
        while not ray.wait([reference], timeout=POLL_SECONDS)[0]:
            self.watch.check()
            if time.monotonic() > deadline:
                raise LostError("the coordinator does not answer")
        return ray.get(reference)


class _Lane(threading.Thread):
    """Holds a lane's blocking call."""

    def __init__(self, spec: LaneSpec, storage: Path) -> None:
        super().__init__(name="lane", daemon=True)
        self._spec, self._storage = spec, storage
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            from cluster.runtime.lane import run_lane

            run_lane(self._spec, self._storage)
        except BaseException as error:
            self.error = error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


if __name__ == "__main__":
    main()
