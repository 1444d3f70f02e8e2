"""How a session's Ray differs from what `ray.init` starts. Ray has no settings for it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from cluster.runtime import fork_client

# The autoscaler's monitor (a session's nodes are given) and the dashboard's server, which Ray starts even
# where none is wanted: each costs most of a second. The log monitor stays: it hands on what raylets say.
UNUSED = ("start_monitor", "start_api_server")


def leave_out_unused() -> None:
    """Have the Ray that this process starts do without the servers that no session uses."""
    from ray._private.node import Node

    for name in UNUSED:
        setattr(Node, name, _nothing)


def fork_workers() -> None:
    """Have the workers of the raylet that this process starts forked, where its environment says by whom."""
    if fork_client.SOCKET in os.environ:
        start_workers_with(fork_client.__file__)


def start_workers_with(script: str) -> None:
    """Have the raylet that this process starts run a script where it would run Ray's, to start a worker.

    Changes nothing in a version of Ray that keeps the paths of its scripts elsewhere.
    """
    from ray._private.node import Node

    start_raylet = getattr(Node, "start_raylet", _nothing)

    def start(node: Any, *arguments: Any, **named: Any) -> None:
        with suppress(AttributeError):
            node._ray_params.worker_path = node._ray_params.setup_worker_path = script
        start_raylet(node, *arguments, **named)

    Node.start_raylet = start  # type: ignore[method-assign, assignment]


def _nothing(*_: object, **__: object) -> None:
    """Start no process."""
