"""Simulated cluster nodes on one machine: each in its own network namespace, on a link of a chosen rate.

On Linux every user can do this: in a user namespace they are root over their own networks, isolated from
those of the machine. The namespaces end with the processes that hold them.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

# Reserved for network benchmarks (RFC 2544).
NETWORK = "198.18.0"
PREFIX_LENGTH = 24
HOLD = ("sleep", "infinity")
TOOLS = ("ip", "nsenter", "sleep", "tc", "unshare")


@dataclass(frozen=True)
class Node:
    """A simulated node: its address, and the process that holds its network (None: this machine's own)."""

    address: str
    holder: int | None = None

    @property
    def enter(self) -> tuple[str, ...]:
        """The prefix of a command that is to run there."""
        return () if self.holder is None else _enter(self.holder)

    def join(self) -> None:
        """Move this process, which must have one thread, there.

        Raises:
            OSError: it may not.
        """
        if self.holder is None:
            return
        with ExitStack() as stack:
            paths = [Path(f"/proc/{self.holder}/ns/{kind}") for kind in ("user", "net")]
            for namespace in [stack.enter_context(path.open()) for path in paths]:
                _set_namespace(namespace.fileno())


def missing() -> str | None:
    """Return why this machine cannot simulate links; None if it can."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not found"
    tried = _run("unshare", "--user", "--map-root-user", "--net", "true", check=False)
    return f"no network namespaces here ({tried.stderr.strip()})" if tried.returncode else None


@contextmanager
def linked(count: int, megabits_per_s: float, environment: Mapping[str, str]) -> Iterator[list[Node]]:
    """Yield `count` nodes behind one switch, each on a link of this rate in each direction.

    `environment` is that of the processes that hold the namespaces.

    Raises:
        CalledProcessError: a tool failed, such as `tc` where the kernel has no token bucket filter.
    """
    holders = [_hold("unshare", "--user", "--map-root-user", "--net", environment=environment)]
    try:
        switch = _enter(holders[0].pid)
        _run(*switch, "ip", "link", "add", "switch", "type", "bridge")
        _run(*switch, "ip", "link", "set", "switch", "up")
        nodes = []
        for index in range(count):
            holders.append(_hold(*switch, "unshare", "--net", environment=environment))
            nodes.append(_plug(switch, holders[-1], index, megabits_per_s))
        yield nodes
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def _plug(switch: tuple[str, ...], holder: subprocess.Popen[str], index: int, megabits: float) -> Node:
    """Connect a node to the switch; return it."""
    node, port = Node(f"{NETWORK}.{index + 1}", holder.pid), f"port{index}"
    enter, peer = node.enter, ("peer", "name", "eth0", "netns", str(holder.pid))
    _run(*switch, "ip", "link", "add", port, "type", "veth", *peer)
    _run(*switch, "ip", "link", "set", port, "master", "switch", "up")
    _run(*enter, "ip", "link", "set", "lo", "up")
    _run(*enter, "ip", "address", "add", f"{node.address}/{PREFIX_LENGTH}", "dev", "eth0")
    _run(*enter, "ip", "link", "set", "eth0", "up")
    for where, device in ((switch, port), (enter, "eth0")):
        shape = ("tbf", "rate", f"{megabits}mbit", "burst", "256kb", "latency", "50ms")
        _run(*where, "tc", "qdisc", "add", "dev", device, "root", *shape)
    return node


def _hold(*command: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a process that holds a namespace, and wait until it has entered it."""
    holder = subprocess.Popen(
        [*command, "sh", "-c", f"echo; exec {' '.join(HOLD)}"],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    return holder


def _enter(holder: int) -> tuple[str, ...]:
    return ("nsenter", "--target", str(holder), "--user", "--preserve-credentials", "--net")


def _set_namespace(descriptor: int) -> None:
    """Call setns(2), which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), "a process cannot join a namespace")


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=check, capture_output=True, text=True)
