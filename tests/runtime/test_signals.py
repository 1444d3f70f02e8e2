"""The signals that ask a run to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

WAIT = """
import signal, sys
from cluster.runtime.signals import StopSignals
with StopSignals() as stop:
    print(flush=True)
    sys.stdin.readline()
    print(stop.received.name if stop.received else None, stop.exit_code)
"""


@pytest.mark.parametrize(
    ("number", "prefix", "said"),
    [
        (signal.SIGTERM, [], "SIGTERM 75"),
        (signal.SIGUSR2, [], "SIGUSR2 75"),
        (signal.SIGHUP, [], "SIGHUP 75"),
        (signal.SIGINT, [], "SIGINT 130"),
        (signal.SIGHUP, ["nohup"], "None 75"),
    ],
)
def test_a_signal_is_remembered_and_ends_nothing(
    number: signal.Signals, prefix: list[str], said: str
) -> None:
    """A lost session is a stop; a run that was started with nohup has none to lose."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", WAIT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, number)
        print(file=process.stdin, flush=True)
        assert process.stdout.readline().strip() == said
