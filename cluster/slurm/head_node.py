"""The run on an allocation's head node, fed through standard input: python -m cluster.slurm.head_node."""

from __future__ import annotations

import os
import signal
import sys
import threading

from cluster.runtime.service import run
from cluster.slurm.order import Order
from distlth.report.console import RunView
from distlth.report.ending import exit_code


def main() -> int:
    """Run what the first line orders; each further line names a signal to act on."""
    line = sys.stdin.readline()
    threading.Thread(target=_forward_signals, name="signals", daemon=True).start()
    return exit_code(lambda: _run(Order.parse(line)))


def _run(order: Order) -> int:
    with RunView() as view:
        view.summary(run(order.config, view.show, order.allowed_changes, order.allocation))
    return 0


def _forward_signals() -> None:
    """Send this process the signals that the task names. At the end of the input the task is gone: stop."""
    for line in sys.stdin:
        os.kill(os.getpid(), signal.Signals[line.strip()])
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
