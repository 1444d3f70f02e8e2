"""How a session's Ray differs from what `ray.init` starts. Ray has no settings for it."""

from __future__ import annotations

# The autoscaler's monitor (a session's nodes are given) and the dashboard's server, which Ray starts even
# where none is wanted: each costs most of a second. The log monitor stays: it hands on what raylets say.
UNUSED = ("start_monitor", "start_api_server")


def leave_out_unused() -> None:
    """Have the Ray that this process starts do without the servers that no session uses."""
    from ray._private.node import Node

    for name in UNUSED:
        setattr(Node, name, _nothing)


def _nothing(*_: object, **__: object) -> None:
    """Start no process."""
