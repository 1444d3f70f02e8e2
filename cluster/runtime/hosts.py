"""Whose Ray a run trains in: its own, started here, or one that is there already (see `existing_ray`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from cluster.runtime.head_requests import Requests
from cluster.runtime.messages import Ending, Joined, Order, Reply, Started, StartRay
from cluster.runtime.placement import fewest_nodes
from cluster.runtime.ray_watch import RayWatch
from cluster.runtime.session import network, start_ray
from distlth.run.events import EventLog

SendReply = Callable[[Reply], None]


class Host(ABC):
    """A Ray to which this process is connected, as long as its run trains."""

    watch: RayWatch

    @abstractmethod
    def prepare(self, order: Order) -> Order | Ending:
        """Return the order to train, once there are nodes for it, or how it ended before."""

    @abstractmethod
    def leave(self) -> None:
        """Leave nothing of the run in Ray."""


class OwnRay(Host):
    """A Ray that this process starts on this node; the worker nodes of an allocation join.

    It starts while the run is still checked, and has no log yet: what Ray says so early is written later.
    """

    def __init__(self, start: StartRay, requests: Requests, address: str, reply: SendReply) -> None:
        self._requests, self._reply = requests, reply
        self._early: list[str] = []
        self._note: Callable[[str], None] = self._early.append
        start_ray(start.cluster, start.device, requests.folder, address, lambda message: self._note(message))
        self.watch = RayWatch()

    def prepare(self, order: Order) -> Order | Ending:
        """Have the worker nodes join; the order is for those that did."""
        log = EventLog(order.run.log)
        self._note = messages_to(log)
        for message in self._early:
            self._note(message)
        if not order.rendezvous:
            return order
        log.note("network", **network())
        return self._gather_nodes(order) or self._requests.next_order()

    def leave(self) -> None:
        """Do nothing: whoever started this process ends Ray with it."""

    def _gather_nodes(self, order: Order) -> Ending | None:
        """Have the worker nodes join; return None when the run can start on them, else its ending."""
        import ray

        cluster = order.config.cluster
        self._reply(Started(ray.get_runtime_context().gcs_address))
        self.watch.gather(cluster.nodes, order.node_wait_seconds, lambda: self._requests.stop is not None)
        if self._requests.stop:
            return Ending()
        usable = self.watch.usable(order.without)
        if len(usable) < fewest_nodes(cluster):
            return Ending(lost=self.watch.missing(cluster, order.node_wait_seconds))
        self._reply(Joined(len(usable)))
        return None


def messages_to(log: EventLog) -> Callable[[str], None]:
    """Return what takes Ray's messages into a run's log, the first line of each."""
    return lambda message: log.note("ray", message=message.partition("\n")[0])
