"""Watching what a run cannot do without: Ray's daemons on the head node, and the nodes that have joined."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import psutil

from cluster.runtime.placement import fewest_nodes
from cluster.runtime.session import NODE_LABEL
from distlth.config.schema import ClusterSection

JOIN_POLL_SECONDS = 0.5
NODE_POLL_SECONDS = 2.0
DAEMONS = ("gcs_server", "raylet")


class LostError(Exception):
    """A part of Ray that a run cannot do without is gone; `nodes_left` nodes could resume without it."""

    def __init__(self, message: str, nodes_left: int = 0) -> None:
        super().__init__(message)
        self.nodes_left = nodes_left


class RayWatch:
    """The daemons that this process has started with Ray, and the nodes by their id and name."""

    def __init__(self) -> None:
        self.daemons = [child for child in psutil.Process().children() if child.name() in DAEMONS]
        self.nodes = living_nodes()
        self._looked = time.monotonic()

    def gather(self, nodes: int, seconds: float, is_over: Callable[[], bool]) -> None:
        """Wait until `nodes` nodes have joined, for at most `seconds`, or until `is_over`."""
        deadline = time.monotonic() + seconds
        while len(self.nodes) < nodes and time.monotonic() < deadline and not is_over():
            time.sleep(JOIN_POLL_SECONDS)
            self.check()
            self.nodes = living_nodes()

    def usable(self, without: Collection[str]) -> list[str]:
        """Return the names of the nodes that have joined and are not left out."""
        return sorted(name for name in self.nodes.values() if name not in without)

    def suffice(self, config: ClusterSection, without: Collection[str]) -> bool:
        """Return whether a run can resume on the nodes that are not left out."""
        return 0 < fewest_nodes(config) <= len(self.usable(without))

    def missing(self, config: ClusterSection, seconds: float) -> str:
        """Return a message for the user: how many nodes joined in `seconds`, and which."""
        here = ", ".join(sorted(self.nodes.values()))
        return (
            f"{len(self.nodes)} of {config.nodes} nodes joined in {seconds:g} s ({here}), "
            f"{fewest_nodes(config)} are needed (cluster.min_nodes); the others' logs say why"
        )

    def check(self) -> None:
        """Raise LostError when a daemon on the head node has died, or a node that had joined."""
        self._check_daemons()
        if len(self.nodes) > 1 and time.monotonic() - self._looked > NODE_POLL_SECONDS:
            self._looked = time.monotonic()
            self._check_nodes()

    def _check_daemons(self) -> None:
        for daemon in self.daemons:
            if not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE:
                raise LostError(f"Ray's {daemon.name()} died")

    def _check_nodes(self) -> None:
        living = living_nodes()
        gone = sorted(name for node, name in self.nodes.items() if node not in living)
        if gone:
            left = len(self.nodes) - len(gone)
            raise LostError(f"node {', '.join(gone)} is lost, {left} of {len(self.nodes)} left", left)


def living_nodes() -> dict[str, str]:
    """Return the nodes that Ray takes for alive: id -> name."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    hosts = [node["NodeManagerHostname"] for node in nodes]
    return {node["NodeID"]: node["Labels"].get(NODE_LABEL) or _host(node, hosts) for node in nodes}


def selector_without(names: Collection[str]) -> dict[str, str] | None:
    """Return the selector of all nodes but those of these names, in a Ray that others started."""
    from ray._raylet import RAY_NODE_ID_KEY  # type: ignore[attr-defined]  # of a compiled module

    ids = [node for node, name in living_nodes().items() if name in names]
    return {RAY_NODE_ID_KEY: f"!in({','.join(ids)})"} if ids else None


def _host(node: Mapping[str, Any], hosts: Sequence[str]) -> str:
    """Return the host name of a node, with its address where others have it, too."""
    host: str = node["NodeManagerHostname"]
    return host if hosts.count(host) == 1 else f"{host}-{node['NodeManagerAddress']}"
