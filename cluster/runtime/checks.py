"""What is checked before a run starts, in a process of its own: python -m cluster.runtime.checks.

It reads a config on standard input and writes what it found on standard output. The process of `distlth run`
does without torch for it, and starts Ray meanwhile.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from cluster.runtime import fork_client
from cluster.runtime.placement import check_cores
from cluster.runtime.session import resolve_device
from cluster.runtime.signals import shielded
from distlth import errors
from distlth.config.schema import RunConfig
from distlth.cores import num_cores
from distlth.errors import RunInterrupted, UserError

MODULE = "cluster.runtime.checks"


@dataclass(frozen=True)
class Checked:
    """What the checks of a config found: the device to train on, and by what the run knows its data set."""

    device: str
    data: Mapping[str, Any]


def run_checks(config: RunConfig, environment: Mapping[str, str]) -> Checked:
    """Check a config in another process, with an `environment`; forked from the fork server that it names.

    Raises:
        UserError: the run cannot start as it is.
        RunInterrupted: that process was killed.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            files = [theirs.fileno(), theirs.fileno(), 2]
            is_forked = fork_client.ask(["-m", MODULE], files, environment)
            process = None if is_forked else _start(theirs, environment)
        reply = ""
        with suppress(ConnectionError):  # it was killed
            ours.sendall(json.dumps(config.model_dump(mode="json")).encode())
            ours.shutdown(socket.SHUT_WR)
            with ours.makefile() as replies:
                reply = replies.read()
    if process is not None:
        process.wait()
    if not reply:
        raise RunInterrupted("the process that checks the job file was killed; run the same command again")
    return _read(json.loads(reply))


def _read(reply: Mapping[str, Any]) -> Checked:
    """Return what was found, or raise the error that was."""
    match reply:
        case {"found": found}:
            return Checked(**found)
        case {"mistake": kind, "message": message}:
            raise getattr(errors, kind)(message)
        case {"errno": number, "message": message, "file": file}:
            raise OSError(number, message, file)
    raise RuntimeError(f"the job file could not be checked:\n{reply['traceback']}")


def _start(connection: socket.socket, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the process where none can be forked; signals from a terminal do not reach it."""
    command = [sys.executable, "-P", "-m", MODULE]
    with shielded():
        return subprocess.Popen(
            command,
            stdin=connection.fileno(),
            stdout=connection.fileno(),
            env=dict(environment),
            start_new_session=True,
        )


def check(config: RunConfig) -> Checked:
    """Check a config on this machine.

    Raises:
        UserError: it cannot be trained as it is, or this machine has too few GPUs, or too few cores for them.
    """
    import torch

    from distlth.preflight import preflight

    if config.cluster.device == "auto" and config.cluster.ray is None:
        config.check_device("cuda" if torch.cuda.is_available() else "cpu")
    found = preflight(config)
    return Checked(_device(config), found.identity)


def _device(config: RunConfig) -> str:
    """Return the device to train on; `auto` in a Ray cluster, which decides it."""
    if config.cluster.ray is not None:
        return config.cluster.device
    device = resolve_device(config.cluster)
    if device == "cuda":
        check_cores(config, num_cores(), "this process may use")
    return device


def main() -> None:
    """Check the config on standard input; reply with what was found, or with the error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints, prints among messages
    config = RunConfig.model_validate(json.load(sys.stdin))
    with replies:
        json.dump(_reply(config), replies)


def _reply(config: RunConfig) -> dict[str, Any]:
    try:
        return {"found": asdict(check(config))}
    except UserError as error:
        return {"mistake": type(error).__name__, "message": str(error)}
    except Exception as error:  # the command raises it
        if isinstance(error, OSError) and isinstance(error.filename, str):
            return {"errno": error.errno, "message": error.strerror, "file": error.filename}
        return {"traceback": traceback.format_exc()}


if __name__ == "__main__":
    main()
