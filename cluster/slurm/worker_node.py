"""A worker node of an allocation, which joins the head node's Ray: python -m cluster.slurm.worker_node."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from cluster.runtime.rendezvous import POLL_SECONDS, Call, Rendezvous
from cluster.runtime.session import environment, join_command, resolve_device, session_folder
from cluster.runtime.signals import shielded
from cluster.slurm.order import Order
from distlth.config.schema import ClusterSection
from distlth.report.ending import exit_code

# A Ray that stays so long has joined.
LASTING_SECONDS = 60.0


def main() -> int:
    """Join every Ray that the head node starts, one after the other, until the run is over."""
    order = Order.parse(sys.stdin.readline())
    threading.Thread(target=_end_with_task, name="task", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    rendezvous = Rendezvous(order.allocation.rendezvous)
    return exit_code(lambda: _follow(rendezvous, order.config.cluster))


def _follow(rendezvous: Rendezvous, cluster: ClusterSection) -> int:
    device = resolve_device(cluster)
    call = rendezvous.wait(None, cluster.node_wait_seconds)
    while call is not None:
        _join(call, rendezvous, cluster, device)
        if rendezvous.heard() is None:
            return 0
        call = rendezvous.wait(call, cluster.node_wait_seconds)
    say(f"no call from the head node in {cluster.node_wait_seconds:g} s; it may be lost")
    return os.EX_TEMPFAIL


def _join(call: Call, rendezvous: Rendezvous, cluster: ClusterSection, device: str) -> None:
    """Run a Ray worker node until the head restarts, finishes, or is lost.

    Where a head was lost, its port may soon be another's: what answers there is no proof that it lives.
    """
    head, _, port = call.head.rpartition(":")
    address = own_address(head)
    with session_folder(call.token) as folder:
        command = join_command(cluster, device, folder, address, call.head)
        failing_since: float | None = None
        while rendezvous.heard() == call and answers(head, int(port)):
            say(f"joining {call.head}")
            began = time.monotonic()
            _hold(command, folder / "ray.log", environment(folder, address, alone=False), rendezvous, call)
            ended = time.monotonic()
            failing_since = None if ended - began > LASTING_SECONDS else failing_since or ended
            if failing_since is not None and ended - failing_since > cluster.node_wait_seconds:
                return


def _hold(command: list[str], log: Path, env: dict[str, str], rendezvous: Rendezvous, call: Call) -> None:
    """Run Ray until the call is withdrawn, or it ends: its head was lost, or it took too long to start."""
    with open(log, "wb") as output, shielded():
        ray = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=env
        )
    while rendezvous.heard() == call:
        try:
            ray.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        say(f"Ray ended here with exit code {ray.returncode}\n{log.read_text(errors='replace')}")
        return


def own_address(head: str) -> str:
    """Return this node's address as the head node reaches it: that of the interface which leads there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((head, 9))  # sends nothing
        address: str = route.getsockname()[0]
    return address


def answers(host: str, port: int) -> bool:
    """Return whether something listens there."""
    try:
        socket.create_connection((host, port), timeout=10.0).close()
    except OSError:
        return False
    return True


def say(text: str) -> None:
    """Print, if that is possible: where the head node is lost, this task's output may be lost, too."""
    with suppress(OSError):
        print(text, flush=True)


def _end_with_task() -> None:
    """Interrupt this process at the end of the input: the task that started it is gone."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
