"""A Ray cluster that is there already: a run is its guest, on equal terms with others, and leaves nothing.

This process is a driver of it, on one of its nodes: that with the run directory, where the coordinator and
the tasks that make masks stay. All that the run starts there is in a namespace of its own, and ends with the
driver.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Collection, Mapping
from dataclasses import replace

import ray
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._private.services import canonicalize_bootstrap_address, find_node_ids
from ray._private.utils import compute_version_info
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # of a compiled module
from ray.exceptions import AuthenticationError, RpcError

from cluster.runtime.head_requests import Requests
from cluster.runtime.hosts import Host, SendReply, messages_to
from cluster.runtime.lane import selector_without
from cluster.runtime.messages import Ending, Joined, Order
from cluster.runtime.node_check import check_nodes
from cluster.runtime.placement import Need, guest_config
from cluster.runtime.ray_watch import RayWatch, living_nodes
from cluster.runtime.room import await_room, check_room, may_grow, resources, room
from cluster.runtime.session import SAFE_PATH, SESSION, own_path, take_messages
from distlth.config.schema import ClusterSection
from distlth.errors import RunError
from distlth.run.events import EventLog

CONNECT_SECONDS = 10.0
LEAVE_SECONDS = 10.0

SEND_IT = (
    "run the command on one of its nodes, or send it there: ray job submit -- distlth run JOB.yaml --ray auto"
)


class GuestRay(Host):
    """A Ray cluster that others have started, and use."""

    watch: GuestWatch

    def __init__(self, order: Order, requests: Requests, reply: SendReply) -> None:
        assert order.config.cluster.ray is not None
        assert order.rendezvous is not None
        self._order, self._requests, self._reply = order, requests, reply
        self._folder = order.rendezvous
        connect(order.config.cluster.ray, self._folder.name)
        self._device = _device(order)
        self._need = Need.of(order.config, self._device)
        self.watch = GuestWatch(self._need)

    def prepare(self) -> Order | Ending:
        """Check that the cluster fits the run, and wait for room in it."""
        self._order.config.check_device(self._device)
        without = self._order.without
        check_room(self._need, self.watch.ids(without))
        config = guest_config(self._order.config, self._device)
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

    def usable(self, without: Collection[str]) -> list[str]:
        """Return the names of the nodes that are alive and not left out."""
        self.nodes = living_nodes()
        return super().usable(without)

    def ids(self, without: Collection[str]) -> list[str]:
        """Return the ids of the nodes that are alive and not left out."""
        return [node for node, name in living_nodes().items() if name not in without]

    def carriers(self, without: Collection[str]) -> dict[str, str]:
        """Return the nodes of `ids` that can have a rank, by id and name."""
        names, total = living_nodes(), resources()
        fit = [node for node in self.ids(without) if self._need.fit(total.get(node, {})) and node in names]
        return {node: names[node] for node in fit}

    def suffice(self, config: ClusterSection, without: Collection[str]) -> bool:
        """Return whether all ranks fit on the nodes that are not left out, when others have left these."""
        fit = room(self._need, resources(), self.ids(without))
        return fit >= self._need.ranks or may_grow()

    def _check_nodes(self) -> None:
        """Leave it to the lanes: where a node with ranks is gone they start again elsewhere."""


def connect(given: str, namespace: str) -> None:
    """Connect to the Ray at `cluster.ray` as a driver, in a namespace of its own.

    Raises:
        RunError: one line that says why it cannot be, and what to do.
    """
    address = _address(given)
    _check_answers(address)
    found = _metadata(address)
    here = compute_version_info()  # type: ignore[no-untyped-call]
    if why := version_refusal(found, *here):
        raise RunError(f"cluster.ray: {address} {why}")
    if not find_node_ids():  # type: ignore[no-untyped-call]
        raise RunError(f"cluster.ray: this machine is no node of the Ray cluster at {address}; {SEND_IT}")
    environment = {**SAFE_PATH, SESSION: namespace}
    os.environ.update({SESSION: namespace})
    try:
        ray.init(
            address=address,
            namespace=namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment},
            job_config=own_path(),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        # Ray has looked for a node of this cluster here for a minute.
        is_elsewhere = "No node info found" in str(error)
        why = f"this machine is no node of it; {SEND_IT}" if is_elsewhere else " ".join(str(error).split())
        raise RunError(f"cluster.ray: cannot connect to the Ray cluster at {address}: {why}") from None


def version_refusal(cluster: Mapping[str, str], ray_version: str, python: str) -> str:
    """Return why a cluster does not fit a driver of these versions; empty where it does.

    Ray must be the same, Python up to its minor version.
    """
    theirs, minor = cluster["python_version"], python.split(".")[:2]
    if cluster["ray_version"] == ray_version and theirs.split(".")[:2] == minor:
        return ""
    return (
        f"runs Ray {cluster['ray_version']} on Python {theirs}, this process has Ray {ray_version} on Python "
        f"{python}; use one image, or one environment, on all nodes"
    )


def _address(given: str) -> str:
    """Return HOST:PORT; `auto` is what RAY_ADDRESS names, or the Ray that runs on this machine."""
    try:
        found = canonicalize_bootstrap_address(given, None)
    except (ConnectionError, ValueError, RuntimeError):
        found = None
    if not found:
        raise RunError(
            "cluster.ray: auto finds no Ray cluster on this machine; run the command on a node of one, "
            "or give its address, such as 10.0.0.1:6379"
        )
    if "://" in found:
        raise RunError(f"cluster.ray: RAY_ADDRESS is {found}, for clients outside of the cluster; {SEND_IT}")
    return str(found)


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RunError(
            f"cluster.ray: {address} does not answer ({error}); expected the address that `ray start --head` "
            "prints, of a cluster that runs"
        ) from None


def _metadata(address: str) -> dict[str, str]:
    """Return what a cluster tells of itself to those who have its token."""
    try:
        ensure_token_if_auth_enabled(create_token_if_missing=False)
        metadata: dict[str, str] = get_cluster_metadata(GcsClient(address=address))
        return metadata
    except AuthenticationError:
        raise RunError(
            f"cluster.ray: the Ray cluster at {address} does not accept this user's token, or there is none; "
            "expected RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN, as on its nodes"
        ) from None
    except (RpcError, TypeError):
        raise RunError(
            f"cluster.ray: {address} is not the head of a Ray cluster; expected the address that "
            "`ray start --head` prints (port 6379, not that of the dashboard or of clients)"
        ) from None


def _device(order: Order) -> str:
    """Return `cpu` or `cuda`; `auto` is decided by what the nodes of the cluster have."""
    if order.device != "auto":
        return order.device
    return "cuda" if any(node.get("GPU", 0) for node in resources().values()) else "cpu"
