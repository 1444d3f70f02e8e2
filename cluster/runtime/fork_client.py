"""Asks the fork server (`fork_server`) for a process. Ray runs this as a script to start a worker.

Imports only the standard library, and little of that, since it runs for each worker. Where the fork server
does not answer, or a worker needs more than a fork, the worker starts as Ray starts it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
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
    if not (_needs_only_a_fork(arguments) and ask(arguments, [0, 1, 2], os.environ)):
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


def ask(arguments: Sequence[str], files: Sequence[int], environment: Mapping[str, str]) -> bool:
    """Ask for a process with these arguments, standard streams and environment; return whether it is there.

    The arguments are those of a worker, or `-m` and a module whose `main` it calls. It waits for the last
    message: one that this process no longer waits for ends.
    """
    if SOCKET not in environment:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(ANSWER_SECONDS)
            server.connect(environment[SOCKET])
            content = json.dumps(_request(arguments, environment)).encode()
            socket.send_fds(server, [len(content).to_bytes(LENGTH_BYTES)], files)
            server.sendall(content)
            if server.recv(1) != READY:
                return False
            server.sendall(GO)
            return True
    except OSError:
        return False


def _request(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    with open("/proc/self/oom_score_adj") as file:  # Ray has the kernel kill workers first
        oom_score_adj = file.read()
    return {
        "arguments": list(arguments),
        "environment": dict(environment),
        "folder": os.getcwd(),
        "niceness": os.nice(0),
        "oom_score_adj": oom_score_adj,
    }


if __name__ == "__main__":
    main()
