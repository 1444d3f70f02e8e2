"""The process from which a session's Ray workers are forked: `python -m cluster.runtime.fork_server`.

A worker takes seconds of a core to import torch and Ray, and a run has half a dozen of them. This process
imports both once; `fork_client`, which Ray runs to start a worker, has it fork. It keeps to one thread, opens
no connection to Ray and draws none of Ray's random numbers, so that a fork differs from a fresh process only
in what it has imported; where that does not hold, it ends. CUDA does not survive a fork: workers that may use
a GPU start as Ray starts them.

It starts first of all, and also forks the process that checks a run (`checks`), before it imports Ray.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.runtime.fork_client import CONTEXT, GO, LENGTH_BYTES, READY, SCRIPTS, SOCKET, context
from cluster.runtime.signals import shielded

# In the environment of `distlth run`: 0 has Ray start all workers itself.
SWITCH = "DISTLTH_FORK_WORKERS"

# What the checks, the coordinator, the ranks and the tasks that refill and regroup import. Both networks on
# shapes alone and DDP import torch's compiler.
MODULES = (
    *("torch", "torch._dynamo", "distlth.maker", "distlth.train.trainer", "distlth.report.board"),
    "cluster.runtime.checks",
)
# What they, and Ray Train's actors, import on top of that.
RAY_MODULES = ("cluster.runtime.lane", "cluster.runtime.rank", "cluster.runtime.assignments")

# Keeps libraries from starting threads when they are imported. Ray sets the first for workers that want
# at most one core; a rank tells torch how many it has.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}

# Ray reads these once, when it is imported. All workers of a session that run jobs have the same.
READ_ON_IMPORT = ("RAY_JOB_ID", "RAY_RAYLET_PID")

# Ray writes a worker's title over the arguments of its process, which are those of the process it forks from.
TITLE_ROOM = "." * 200
BACKLOG = 128
PR_SET_PDEATHSIG = 1  # of Linux's prctl
# A client that was stopped in the middle of its request holds up the others no longer than this.
PATIENCE_SECONDS = 10.0


def is_wanted(device: str | None) -> bool:
    """Return whether the workers of a session on a device (None: not known yet) are to be forked."""
    return device == "cpu" and os.environ.get(SWITCH, "1") != "0"


def start(
    folder: Path,
    environment: MutableMapping[str, str],
    modules: Sequence[str] = MODULES,
    ray_modules: Sequence[str] = RAY_MODULES,
) -> subprocess.Popen[bytes]:
    """Start it, with its socket in `folder`, which only this user can enter and whose path is short.

    Adds to the `environment` how `fork_client` finds it. It ends with this process.
    """
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    environment[SOCKET] = str(folder / f"fork-{os.getpid()}")
    environment[SCRIPTS] = str(Path(ray.origin).parent / "_private" / "workers")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(environment[SOCKET])
        listener.listen(BACKLOG)  # requests wait until all is imported
        words = [str(listener.fileno()), ",".join(modules), ",".join(ray_modules), TITLE_ROOM]
        command = [sys.executable, "-P", "-m", "cluster.runtime.fork_server", *words]
        with open(folder / "fork.err", "ab") as said, shielded():
            return subprocess.Popen(
                command,
                env={**ONE_THREAD, **environment},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )


@dataclass(frozen=True)
class _Request:
    """A worker that is asked for: what its process is to have, and the connection to who asked."""

    connection: socket.socket
    files: Sequence[int]
    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    niceness: int
    oom_score_adj: str

    @classmethod
    def receive(cls, connection: socket.socket) -> _Request:
        """Read a request; raise OSError, TypeError or ValueError for one that broke off."""
        connection.settimeout(PATIENCE_SECONDS)
        head, files, _, _ = socket.recv_fds(connection, LENGTH_BYTES, 3)
        with connection.makefile("rb") as rest:
            return cls(connection, files, **json.loads(rest.read(int.from_bytes(head))))

    @property
    def is_worker(self) -> bool:
        """Whether it is one of Ray's workers: other processes call a module's `main`."""
        return self.arguments[:1] != ["-m"]

    @property
    def read_on_import(self) -> dict[str, str]:
        """Return the part of its environment that Ray reads only on import."""
        return {name: value for name, value in self.environment.items() if name in READ_ON_IMPORT}

    def close(self) -> None:
        """Close what this process holds of it."""
        for file in self.files:
            os.close(file)
        self.connection.close()


def main() -> None:
    """Import what workers need, then fork one for each request."""
    number, modules, ray_modules, *_ = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    gc.disable()  # nothing that is imported becomes garbage: to look for it takes a quarter of the time
    _import(modules)
    gc.freeze()  # the collector would write to, and so copy, the pages that forks share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers leave no zombies: Ray hears when they end
    with socket.socket(fileno=int(number)) as listener:
        request = _serve(listener, ray_modules)
    _work(request)


def _serve(listener: socket.socket, ray_modules: str) -> _Request:
    """Fork for each request; return it in the process that was forked for it, and never in this one."""
    imported: dict[str, str] | None = None
    while True:
        connection, _ = listener.accept()
        try:
            request = _Request.receive(connection)
        except (OSError, TypeError, ValueError):  # from a process that was killed in the middle of it
            connection.close()
            continue
        if request.is_worker and imported is None:
            imported = request.read_on_import
            _import_with_ray(imported, ray_modules)
        if (not request.is_worker or request.read_on_import == imported) and os.fork() == 0:
            return request
        request.close()


def _import_with_ray(environment: Mapping[str, str], modules: str) -> None:
    """Import Ray, with the environment of a worker; end this process where forks would be no fresh ones."""
    os.environ.update(environment)
    _draw_class_ids_from_the_system()
    _import(modules)
    if len(os.listdir("/proc/self/task")) > 1:
        sys.exit("a module has started a thread while it was imported: workers are not forked")
    if not _forks_draw_different_ids():
        sys.exit("Ray has drawn random numbers while it was imported: workers are not forked")
    gc.freeze()


def _import(modules: str) -> None:
    for module in modules.split(","):
        importlib.import_module(module)


def _draw_class_ids_from_the_system() -> None:
    """Keep Ray's random generator, which draws an id for each class of actors, from being seeded here.

    Once seeded it cannot be seeded anew: forks would draw the same ids for tasks and objects.
    """
    from ray import ActorClassID, actor

    class FromSystem(ActorClassID):
        @classmethod
        def from_random(cls) -> ActorClassID:  # type: ignore[override]
            return ActorClassID(os.urandom(ActorClassID.size()))

    actor.ActorClassID = FromSystem  # type: ignore[attr-defined]


def _forks_draw_different_ids() -> bool:
    """Return whether two forks, made to try it out, draw different random numbers in Ray."""
    return len({_drawn_by_a_fork() for _ in range(2)}) == 2


def _drawn_by_a_fork() -> bytes:
    from ray import JobID, PlacementGroupID

    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, PlacementGroupID.of(JobID.from_int(1)).binary())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as drawn:
        return drawn.read()


def _work(request: _Request) -> None:
    """Be the process that was asked for, unless nobody waits for it any longer."""
    if not _is_awaited(request.connection):
        os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.enable()
    _take_over(request)
    if not request.is_worker:
        importlib.import_module(request.arguments[1]).main()
        os._exit(0)  # to take down what was imported takes longer than many a task
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument(CONTEXT.rstrip("="))
    parser.add_argument("--language")
    _, arguments = parser.parse_known_args(request.arguments)
    script = os.path.join(os.environ[SCRIPTS], "default_worker.py")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def _is_awaited(connection: socket.socket) -> bool:
    """Tell the client that its worker is there; return whether it has not given up on it."""
    with suppress(OSError):
        connection.sendall(READY)
        return connection.recv(1) == GO
    return False


def _take_over(request: _Request) -> None:
    """Give this process what a worker has that Ray starts."""
    import numpy

    for number, file in enumerate(request.files):
        os.dup2(file, number)
    request.close()
    os.setpgid(0, 0)  # signals to the group of one worker do not reach the others
    os.nice(max(0, request.niceness - os.nice(0)))
    with suppress(OSError):  # some containers do not let it be written
        Path("/proc/self/oom_score_adj").write_text(request.oom_score_adj)
    os.environ.clear()
    os.environ.update(request.environment)
    os.environ.update(context(request.arguments).get("env_vars", {}))
    os.chdir(request.folder)
    numpy.random.seed()  # Python seeds its own generator anew in a fork, numpy does not


if __name__ == "__main__":
    main()
