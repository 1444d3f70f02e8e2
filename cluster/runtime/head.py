"""The process beside `distlth run` that holds Ray: python -m cluster.runtime.head FOLDER ADDRESS.

Requests arrive on standard input, replies leave on standard output (see `messages`). Ray ends the process
that started it when its raylet or its GCS dies. That must not be the process that the user waits for: this
one may die at any time, and `distlth run` reports what happened and cleans up.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.runtime.error_text import first_line
from cluster.runtime.head_requests import Requests
from cluster.runtime.hosts import Host, OwnRay, SendReply
from cluster.runtime.messages import (
    Ending,
    LaneSpec,
    Order,
    Outcome,
    Reply,
    StartRay,
    Unwritten,
    reply_to_json,
)
from cluster.runtime.placement import cores_to_ask, fewest_nodes
from cluster.runtime.ray_watch import LostError, RayWatch
from cluster.runtime.rendezvous import Rendezvous
from distlth.errors import UserError
from distlth.run.events import Event

POLL_SECONDS = 0.5

# A lane that is to leave a checkpoint may be in an evaluation.
CHECKPOINT_SECONDS = 300.0

# The report of a large run has many pictures.
CLOSE_SECONDS = 300.0

# The coordinator imports torch and reads what is on disk before its first answer.
START_SECONDS = 300.0


def main() -> None:
    """Train what is ordered, and reply how it ended."""
    folder, address = Path(sys.argv[1]), sys.argv[2]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints, prints into the log

    def reply(message: Reply) -> None:
        print(reply_to_json(message), file=replies, flush=True)

    reply(_hold_ray(Requests(sys.stdin, folder), address, reply))
    os._exit(0)  # threads of a lost session may never end


def _hold_ray(requests: Requests, address: str, reply: SendReply) -> Ending:
    """Start Ray or connect to one, and train; return how that ended."""
    import ray

    host: Host | None = None
    order = None
    try:
        first = requests.first()
        if isinstance(first, StartRay):
            host = OwnRay(first, requests, address, reply)
            order = requests.next_order()
        else:
            from cluster.runtime.existing_ray import GuestRay

            order = first
            host = GuestRay(order, requests, reply)
        ready = host.prepare(order)
        if isinstance(ready, Ending):
            return ready
        return _Training(ready, requests, host.watch, reply).run()
    except UserError as error:
        return Ending(error=str(error))
    except LostError as error:
        fewest = fewest_nodes(order.config.cluster) if order else 1
        return Ending(lost=str(error), again=error.nodes_left >= fewest)
    except ray.exceptions.RayError as error:
        return Ending(lost=f"the coordinator died ({first_line(str(error)) or repr(error)})")
    finally:
        if host is not None:
            host.leave()


class _Training:
    """The coordinator and the lanes of an order, watched until they end."""

    def __init__(self, order: Order, requests: Requests, watch: RayWatch, reply: SendReply) -> None:
        self.config, self.without = order.config, order.without
        self.requests, self.watch, self.reply = requests, watch, reply
        self.told_to_stop = False
        self.last_unwritten = 0.0
        name = f"coordinator-{self.config.name}"
        self.coordinator = _start_coordinator(name, order)
        cpus = _cores_of_rank(order)
        self.storage = Rendezvous(order.rendezvous).lanes if order.rendezvous else requests.folder / "lanes"
        self.specs = [
            LaneSpec(index, name, order.config, order.run, order.device, cpus, order.without)
            for index in range(self.config.cluster.lanes)
        ]
        self.lanes: list[_Lane] = []

    def run(self) -> Ending:
        """Train until the run is over or stopped; raise LostError where Ray is lost."""
        started = self.coordinator.start.remote()
        self.lanes = [_Lane(spec, self.storage) for spec in self.specs]  # they load as long as it does
        self.wait(started, START_SECONDS)
        while not (outcome := self.outcome()).finished:
            self.pass_stop_on()
            self.report(outcome.unwritten)
            if error := next((lane.error for lane in self.lanes if lane.error), None):
                self.watch.check()
                return _ending_of_lane(error)
            if self.told_to_stop and (outcome.quiet or not self.is_a_lane_alive):
                break
        if outcome.error or outcome.lost:
            self.await_checkpoints()
            return self.ending_of(outcome)
        # Ray Train takes seconds to take a lane down: a run that is to stop may not have them.
        while not outcome.quiet and self.is_a_lane_alive:
            self.watch.check()
            time.sleep(POLL_SECONDS / 10)
        self.wait(self.coordinator.close.remote(), CLOSE_SECONDS)
        return Ending()

    def outcome(self) -> Outcome:
        """Return where the run stands soon, or as soon as it is over."""
        found: Outcome = self.wait(self.coordinator.outcome.remote(POLL_SECONDS))
        return found

    def await_checkpoints(self) -> None:
        """Let the lanes of a run that has failed leave a checkpoint each."""
        deadline = time.monotonic() + CHECKPOINT_SECONDS
        while self.is_a_lane_alive and not self.outcome().quiet and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def ending_of(self, outcome: Outcome) -> Ending:
        """Return the ending of a run that has failed: it may go on at once without the nodes at fault."""
        if outcome.error:
            return Ending(error=outcome.error)
        without = [*self.without, *outcome.suspects]
        again = bool(outcome.suspects) and self.watch.suffice(self.config.cluster, without)
        return Ending(lost=outcome.lost, again=again, without=tuple(sorted(outcome.suspects)))

    @property
    def is_a_lane_alive(self) -> bool:
        """Whether any lane still stands."""
        return any(lane.is_alive for lane in self.lanes)

    def pass_stop_on(self) -> None:
        """Tell the coordinator once that the run is to stop."""
        if self.requests.stop and not self.told_to_stop:
            self.wait(self.coordinator.stop.remote(self.requests.stop))
            self.told_to_stop = True

    def report(self, unwritten: Sequence[Event]) -> None:
        """Reply with the events that the run's log has not taken, each once."""
        for event in unwritten:
            if event["time"] > self.last_unwritten:
                self.last_unwritten = event["time"]
                self.reply(Unwritten(event))

    def wait(self, reference: Any, at_least: float = 0.0) -> Any:
        """Return the value of a Ray reference.

        Raises:
            LostError: Ray died, or there was no answer in `cluster.answer_seconds` (or `at_least` seconds,
                if that is longer).
        """
        import ray

        deadline = time.monotonic() + max(self.config.cluster.answer_seconds, at_least)
        while not ray.wait([reference], timeout=POLL_SECONDS)[0]:
            self.watch.check()
            if time.monotonic() > deadline:
                raise LostError("the coordinator does not answer")
        return ray.get(reference)


class _Lane:
    """A lane, held by a task on this node: what holds it loads torch, which this process does without."""

    def __init__(self, spec: LaneSpec, storage: Path) -> None:
        from cluster.runtime.head_tasks import hold_lane, this_node

        self._held = hold_lane.options(scheduling_strategy=this_node()).remote(spec, storage)

    @property
    def is_alive(self) -> bool:
        """Whether it still stands."""
        import ray

        return not ray.wait([self._held], timeout=0)[0]

    @property
    def error(self) -> BaseException | None:
        """What ended it early."""
        import ray

        if self.is_alive:
            return None
        try:
            ray.get(self._held)
        except Exception as error:
            return getattr(error, "cause", None) or error  # Ray wraps what a task raises
        return None


def _start_coordinator(name: str, order: Order) -> Any:
    """Start the coordinator on this node; return its handle."""
    from cluster.runtime.coordinator import Coordinator
    from cluster.runtime.head_tasks import this_node

    options = Coordinator.options(  # type: ignore[attr-defined]
        name=name, scheduling_strategy=this_node()
    )
    return options.remote(order.config, order.run)


def _cores_of_rank(order: Order) -> int:
    """Return the cores that each rank asks Ray for: its own Ray offers just what the run's ranks share."""
    guest = order.config.cluster.ray is not None
    return cores_to_ask(order.config, order.device) if guest else order.config.cluster.cpus_per_worker


def _ending_of_lane(error: BaseException) -> Ending:
    """Return the ending when a lane ended early. Ray Train restarts ranks that die: not they ended it."""
    import ray

    if isinstance(error, ray.exceptions.RayError):
        return Ending(lost=f"a lane's controller died ({first_line(str(error)) or repr(error)})")
    return Ending(lost=f"a lane ended ({first_line(str(error)) or repr(error)})")


if __name__ == "__main__":
    main()
