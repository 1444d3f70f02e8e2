"""Workers are forks of a process that has imported all they need; what starts first imports little."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from cluster.runtime import fork_client, fork_server
from cluster.runtime.services import start_workers_with
from tests.architecture import ROOT

# In the place of Ray's: a script that says what it was started with.
SCRIPT = """
import gc, json, os, random, sys
drawn = None
if "ray" in sys.modules:
    import numpy
    from ray import JobID, PlacementGroupID
    drawn = [PlacementGroupID.of(JobID.from_int(1)).hex(), random.random(), numpy.random.random()]
with os.fdopen(1, "w") as file:
    place = os.getcwd(), os.getppid()
    process = os.nice(0), os.getpgrp() == os.getpid(), gc.isenabled()
    json.dump([sys.argv[1:], dict(os.environ), *place, drawn, *process], file)
"""
CONTEXT = f'{fork_client.CONTEXT}{{"env_vars": {{"ADDED": "2"}}, "py_executable": "{sys.executable}"}}'
PREFIXED = f'{fork_client.CONTEXT}{{"command_prefix": ["nice"]}}'


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of what Ray runs; its first script runs the second."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "default_worker.py").write_text(SCRIPT)
    (folder / "setup_worker.py").write_text(
        "import os, sys\nos.environ['ADDED'] = 'by Ray'\nos.execv(sys.executable, sys.argv)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(fork_client.SOCKET, str(folder / "nobody listens"))
        patch.setenv(fork_client.SCRIPTS, str(folder))
        patch.setenv("PYTHONPATH", str(ROOT))
        yield folder


@pytest.fixture(scope="module")
def running(scripts: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A fork server that has imported Ray, numpy, and a module with a class of actors; and its socket."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(fork_client.SOCKET, "")
        patch.setenv(fork_client.SCRIPTS, "")
        process = fork_server.start(scripts, os.environ, ["numpy"], ["tests.runtime.actors"])
        socket_path = os.environ[fork_client.SOCKET]
    with process:
        yield process, socket_path
        process.kill()


@pytest.fixture
def server(
    running: tuple[subprocess.Popen[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> subprocess.Popen[bytes]:
    """That fork server, which clients find."""
    monkeypatch.setenv(fork_client.SOCKET, running[1])
    return running[0]


def start(folder: Path, *arguments: str, **more: str) -> list[Any]:
    """Start a worker as Ray does, and return what it says."""
    environment = {**os.environ, "GIVEN": "1", "RAY_JOB_ID": "07", **more}
    command = [sys.executable, fork_client.__file__, *arguments]
    with open(folder / "out", "w") as out:  # the worker's too
        subprocess.run(command, env=environment, cwd=folder, stdout=out, timeout=60, check=True)
    deadline = time.monotonic() + 30
    while not (said := (folder / "out").read_text()).endswith("]"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found: list[Any] = json.loads(said)
    return found


def test_a_worker_has_what_its_starter_has(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    said = start(tmp_path, fork_client.__file__, "--node-id=x", "--language=PYTHON", CONTEXT)
    arguments, environment, folder, parent, _, niceness, leads_group, collects = said
    assert (arguments, folder, parent) == (["--node-id=x"], str(tmp_path), server.pid)
    assert (environment["GIVEN"], environment["ADDED"], environment["RAY_JOB_ID"]) == ("1", "2", "07")
    assert "OMP_NUM_THREADS" not in environment  # unless it is set, Ray sets it by what the worker asks for
    assert (niceness, leads_group, collects) == (os.nice(0), True, True)
    assert psutil.Process(server.pid).num_threads() == 1


def test_forks_draw_different_numbers(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    first, second = (start(tmp_path) for _ in range(2))
    assert first[3] == second[3] == server.pid
    assert len({*first[4], *second[4]}) == 6


def test_a_request_that_breaks_off_ends_nothing(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    for content in (b"", b"\0\0\0\x09{", b"\0\0\0\x02[]", b"\0\0\0\x02{}"):
        with socket.socket(socket.AF_UNIX) as broken:
            broken.connect(os.environ[fork_client.SOCKET])
            broken.sendall(content)
    assert start(tmp_path)[3] == server.pid


def test_a_worker_that_nobody_waits_for_ends(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    server.send_signal(signal.SIGSTOP)
    environment = {**os.environ, "RAY_JOB_ID": "07"}
    with (
        open(tmp_path / "late", "w") as out,
        subprocess.Popen([sys.executable, fork_client.__file__], env=environment, stdout=out) as client,
    ):
        time.sleep(0.5)
        client.kill()
    server.send_signal(signal.SIGCONT)
    assert start(tmp_path)[3] == server.pid
    assert (tmp_path / "late").read_text() == ""


def test_without_a_fork_server_a_worker_starts_as_ray_starts_it(scripts: Path, tmp_path: Path) -> None:
    found, environment, *_, drawn, _, _, _ = start(tmp_path, fork_client.__file__, "--node-id=x", CONTEXT)
    assert (found[:1], environment["ADDED"], drawn) == (["--node-id=x"], "by Ray", None)


# Workers before and after the end of the fork server, with and without a runtime environment.
SESSION = """
import json, os, psutil, time
from cluster.runtime import fork_server
from cluster.runtime.session import LOOPBACK, environment, session_folder, start_ray
from distlth.config.schema import ClusterSection

with session_folder() as folder:
    os.environ.update(environment(folder))
    server = fork_server.start(folder, os.environ)
    start_ray(ClusterSection(), "cpu", folder, LOOPBACK, print)
    import ray

    @ray.remote(num_cpus=0)
    class Worker:
        def say(self):
            with open(f"/proc/{os.getppid()}/cmdline") as parent:
                return os.environ.get("GIVEN"), "fork_server" in parent.read()

    def ask(**given):
        worker = Worker.options(runtime_env={"env_vars": given} if given else None).remote()
        return ray.get(worker.say.remote())

    said = [ask(), ask(GIVEN="1")]
    server.kill()
    said += [ask(), ask(GIVEN="2")]
    print(json.dumps(said))
    ray.shutdown()
"""


def test_a_session_outlives_its_fork_server() -> None:
    ended = subprocess.run([sys.executable, "-c", SESSION], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said == [[None, True], ["1", True], [None, False], ["2", False]]


def test_what_a_fork_would_not_do_right_starts_as_ray_starts_it(
    server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert start(tmp_path)[3] == server.pid
    for arguments, job in (([PREFIXED], "07"), ([], "08")):
        assert start(tmp_path, *arguments, RAY_JOB_ID=job)[3:5] == [os.getpid(), None]


@pytest.mark.parametrize(
    "source",
    [
        "import ray\nray.ActorClassID.from_random()\n",
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
    ],
)
def test_nothing_is_forked_where_forks_would_be_no_fresh_processes(
    source: str, scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would draw the same ids, or miss a thread and the locks that it holds."""
    (tmp_path / "spoils.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    monkeypatch.setenv(fork_client.SOCKET, "")
    with fork_server.start(tmp_path, os.environ, ["numpy"], ["spoils"]) as process:
        monkeypatch.setenv(fork_client.SCRIPTS, str(scripts))
        assert start(tmp_path)[3:5] == [os.getpid(), None]
        assert process.wait(timeout=30) == 1


def test_a_gpu_or_the_switch_leaves_workers_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fork_server.SWITCH, raising=False)
    assert (fork_server.is_wanted("cpu"), fork_server.is_wanted("cuda")) == (True, False)
    assert not fork_server.is_wanted(None)
    monkeypatch.setenv(fork_server.SWITCH, "0")
    assert not fork_server.is_wanted("cpu")


def test_another_version_of_ray_starts_its_raylet_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.node import Node

    class OtherNode:
        started = ""

        def start_raylet(self, how: str) -> None:
            self.started = how

    monkeypatch.setattr(Node, "start_raylet", OtherNode.start_raylet)
    start_workers_with("script.py")
    node, start_raylet = OtherNode(), cast(Any, Node.start_raylet)
    start_raylet(node, "as it does")
    assert node.started == "as it does"


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("cluster.runtime.head, cluster.runtime.coordinator", ["torch", "matplotlib", "tensorboard"]),
        ("distlth.preflight, distlth.train.trainer, distlth.report.board", ["torchvision", "matplotlib"]),
    ],
)
def test_what_a_process_does_not_need_at_its_start_is_not_imported(imported: str, absent: list[str]) -> None:
    code = f"import sys, {imported}\nprint(*(name for name in {absent} if name in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []
