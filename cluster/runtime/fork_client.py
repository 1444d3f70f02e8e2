"""The script that Ray runs to start a worker: it asks the fork server (`fork_server`) for one.

Imports only the standard library, and little of that, since it runs for each worker. Where the fork server
does not answer, or a worker needs more than a fork, the worker starts as Ray starts it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

# Set in a session's environment: the fork server's socket, and the folder of Ray's own scripts.
SOCKET = "DISTLTH_FORK_SERVER"
SCRIPTS = "DISTLTH_RAY_SCRIPTS"

# The first sets up what a worker's runtime environment asks for, and runs the second.
RAY_SCRIPTS = ("setup_worker.py", "default_worker.py")

CONTEXT = "--serialized-runtime-env-context="
LENGTH_BYTES = 4
READY, GO = b"r", b"g"

# The fork server first imports all that workers need, which takes long from a slow file system.
ANSWER_SECONDS = 120.0


def main() -> None:
    """Have a worker started with this process's arguments, environment, folder and standard streams."""
    arguments = [word for word in sys.argv[1:] if word != __file__]  # it replaces both of Ray's scripts
    if not (_needs_only_a_fork(arguments) and _was_forked(arguments)):
        scripts = [os.path.join(os.environ[SCRIPTS], name) for name in RAY_SCRIPTS]
        os.execv(sys.executable, [sys.executable, *scripts, *arguments])


def context(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what Ray sets up for a worker (its runtime environment), by Ray's names, unset ones left out."""
    found = [word.removeprefix(CONTEXT) for word in arguments if word.startswith(CONTEXT)]
    fields = json.loads(found[0]).items() if found else ()
    return {name: value for name, value in fields if value and (name, value) != _usual_python()}


def _usual_python() -> tuple[str, str]:
    return "py_executable", sys.executable


def _needs_only_a_fork(arguments: Sequence[str]) -> bool:
    """Return whether a worker needs no other interpreter, container or command around it."""
    return context(arguments).keys() <= {"env_vars"}


def _was_forked(arguments: list[str]) -> bool:
    """Ask for a worker, and return whether it has started.

    The worker waits for the last message: one that this process no longer waits for ends.
    """
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(ANSWER_SECONDS)
            server.connect(os.environ[SOCKET])
            content = json.dumps(_request(arguments)).encode()
            socket.send_fds(server, [len(content).to_bytes(LENGTH_BYTES)], [0, 1, 2])
            server.sendall(content)
            if server.recv(1) != READY:
                return False
            server.sendall(GO)
            return True
    except OSError:
        return False


def _request(arguments: list[str]) -> dict[str, Any]:
    with open("/proc/self/oom_score_adj") as file:  # Ray has the kernel kill workers first
        oom_score_adj = file.read()
    return {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "niceness": os.nice(0),
        "oom_score_adj": oom_score_adj,
    }


if __name__ == "__main__":
    main()
