"""A Ray cluster that is there already: a run is its guest, on equal terms with others, and leaves nothing.

This process is a driver of it, on one of its nodes: that with the run directory, where the coordinator and
the tasks that make masks stay. All that the run starts there is in a namespace of its own, and ends with the
driver.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import replace

import ray

from cluster.runtime.connection import connect
from cluster.runtime.head_requests import Requests
from cluster.runtime.hosts import Host, SendReply, messages_to
from cluster.runtime.messages import Ending, Joined, Order
from cluster.runtime.node_check import check_nodes
from cluster.runtime.placement import Need, guest_config
from cluster.runtime.ray_watch import RayWatch, living_nodes, selector_without
from cluster.runtime.room import await_room, check_room, may_grow, resources, room
from cluster.runtime.session import take_messages
from distlth.config.schema import ClusterSection
from distlth.run.events import EventLog

LEAVE_SECONDS = 10.0


class GuestRay(Host):
    """A Ray cluster that others have started, and use."""

    watch: GuestWatch

    def __init__(self, order: Order, requests: Requests, reply: SendReply) -> None:
        assert order.config.cluster.ray is not None
        assert order.rendezvous is not None
        self._requests, self._reply = requests, reply
        self._folder = order.rendezvous
        connect(order.config.cluster.ray, self._folder.name)
        self._device = _device(order)
        self._need = Need.of(order.config, self._device)
        self.watch = GuestWatch(self._need)

    def prepare(self, order: Order) -> Order | Ending:
        """Check that the cluster fits the run, and wait for room in it."""
        order.config.check_device(self._device)
        without = order.without
        check_room(self._need, self.watch.ids(without))
        config = guest_config(order.config, self._device)
        check_nodes(self.watch.carriers(without), self._folder, config.data.path)
        self._reply(Joined(1))
        order = self._requests.next_order()
        log = EventLog(order.run.log)
        take_messages(messages_to(log))
        self._await_room(without, log)
        if self._requests.stop:
            return Ending()
        return replace(order, config=guest_config(order.config, self._device), device=self._device)

    def leave(self) -> None:
        """End the job in Ray: its actors, tasks and placement groups end with it."""
        leaving = threading.Thread(target=ray.shutdown, name="leave", daemon=True)
        leaving.start()
        leaving.join(LEAVE_SECONDS)  # Ray ends them all the same, when this process has ended

    def _await_room(self, without: Collection[str], log: EventLog) -> None:
        await_room(
            self._need,
            lambda: self.watch.ids(without),
            selector_without(without),
            lambda message: log.note("waiting", message=message),
            lambda: self._requests.stop is not None,
        )


class GuestWatch(RayWatch):
    """The nodes of a Ray cluster that others use, too: those without ranks may come and go."""

    def __init__(self, need: Need) -> None:
        super().__init__()
        self._need = need

    def ids(self, without: Collection[str]) -> list[str]:
        """Return the ids of the nodes that are alive and not left out."""
        return [node for node, name in living_nodes().items() if name not in without]

    def carriers(self, without: Collection[str]) -> dict[str, str]:
        """Return the nodes of `ids` that can have a rank, by id and name."""
        total, alive = resources(), living_nodes()
        can = [node for node in alive if self._need.fit(total.get(node, {}))]
        return {node: alive[node] for node in can if alive[node] not in without}

    def suffice(self, config: ClusterSection, without: Collection[str]) -> bool:
        """Return whether all ranks fit on the nodes that are not left out, when others have left these."""
        fit = room(self._need, resources(), self.ids(without))
        return fit >= self._need.ranks or may_grow()

    def _check_nodes(self) -> None:
        """Leave it to the lanes: where a node with ranks is gone they start again elsewhere."""


def _device(order: Order) -> str:
    """Return `cpu` or `cuda`; `auto` is decided by what the nodes of the cluster have."""
    if order.device != "auto":
        return order.device
    return "cuda" if any(node.get("GPU", 0) for node in resources().values()) else "cpu"
