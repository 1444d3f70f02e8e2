"""The run on an allocation's first node, fed through standard input: python -m cluster.slurm.head_node."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from cluster.runtime.allocation import Allocation
from cluster.runtime.service import run
from distlth.config.schema import RunConfig
from distlth.report.console import RunView
from distlth.report.ending import exit_code


def main() -> int:
    """Run what the first line asks for; each further line is a signal."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_pass_signals_on, name="signals", daemon=True).start()
    allocation = Allocation(Path(order["rendezvous"]), order["address"])

    def follow() -> int:
        config = RunConfig.model_validate(order["config"])
        with RunView() as view:
            view.summary(run(config, view.show, order["allowed_changes"], allocation))
        return 0

    return exit_code(follow)


def _pass_signals_on() -> None:
    """The end of the input is the end of the task: a last checkpoint, and out."""
    for line in sys.stdin:
        os.kill(os.getpid(), signal.Signals[line.strip()])
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
