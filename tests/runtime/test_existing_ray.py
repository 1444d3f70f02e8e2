"""A Ray cluster that is there already: runs are guests of it, end as elsewhere, and leave nothing behind.

The cluster is a real one with a token: a head and two worker nodes, each in a network namespace and with a
host name of its own. One of them does not see a folder that the others share.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.bench import nodes
from cluster.runtime.connection import version_refusal
from cluster.runtime.node_check import Sight, refusal
from cluster.runtime.placement import Need, guest_config
from cluster.runtime.session import TOKEN, session_folder
from distlth.config.read import load_config
from distlth.config.schema import ClusterSection
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.run.paths import RunPaths
from jobs.request import check_ray_is_its_own
from tests.chaos.harness import events
from tests.small_run import results, small_run

BRANCHES = "[{method: refill, criterion: l1}]"
SMALL = ("prune.rounds=1", f"prune.branches={BRANCHES}", "cluster.retries=3")
JOBS = ["00", "01", "01/refill"]
SECONDS = 150.0

# Another user of the cluster, who takes a core when told to, and can tell all that is in it.
OTHER = """
import json, sys, ray
from ray._private.state import state
from ray.util import list_named_actors, placement_group_table

@ray.remote(num_cpus=1)
class Holder:
    pass

def alive():
    found = state.actor_table(None, None, None).values()
    return [actor["ActorClassName"] for actor in found if actor["State"] != "DEAD"]

ray.init(address="auto", log_to_driver=False, logging_level="ERROR", namespace="other")
holder = None
for line in sys.stdin:
    if line.strip() == "hold":
        holder = Holder.remote()
        ray.get(holder.__ray_ready__.remote())
    if line.strip() == "release":
        ray.kill(holder)
    jobs = [job["JobID"] for job in state.job_table() if not job["IsDead"]]
    states = [group["state"] for group in placement_group_table().values()]
    groups = [each for each in states if each != "REMOVED"]
    names = list_named_actors(all_namespaces=True)
    found = {"jobs": len(jobs), "actors": alive(), "groups": groups, "names": names}
    print(json.dumps(found), flush=True)
"""

# What `ray job submit` adds to the environment of the command.
SUBMITTED = {
    "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": {"A": "b"}}, "metadata": {}})
}

EMPTY = {"jobs": 1, "actors": [], "groups": [], "names": []}
HELD = {**EMPTY, "actors": ["Holder"]}


@dataclass(frozen=True)
class RayCluster:
    """A cluster, and its other user."""

    address: str
    head: nodes.Node
    environment: dict[str, str]
    other: subprocess.Popen[str]
    hidden: Path

    def ask(self, what: str) -> dict[str, Any]:
        """Have the other user do something; return what is in the cluster."""
        assert self.other.stdin is not None
        assert self.other.stdout is not None
        print(what, file=self.other.stdin, flush=True)
        found: dict[str, Any] = json.loads(self.other.stdout.readline())
        return found

    def await_only(self, expected: dict[str, Any], seconds: float = 20.0) -> None:
        """Wait until nothing else is in the cluster: Ray ends what a job has left in the background."""
        deadline = time.monotonic() + seconds
        while (found := self.ask("tell")) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.2)

    def start(self, arguments: list[str], **environment: str) -> subprocess.Popen[str]:
        """Start a command on the head node."""
        return subprocess.Popen(
            [*self.head.enter, *arguments],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    if reason := nodes.missing():
        pytest.skip(reason)
    hidden = tmp_path_factory.mktemp("hidden")
    plain = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with session_folder() as folder:  # ends all processes that have its token
        settings = {**plain, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN)}
        settings |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)}
        with nodes.linked(3, 1000.0, settings) as places:
            address = f"{places[0].address}:6379"
            start_node(places[0], 0, folder, settings, "--head", "--port=6379", "--include-dashboard=false")
            with ThreadPoolExecutor() as pool:
                joins = [
                    pool.submit(start_node, place, index, folder, settings, f"--address={address}", hide=hide)
                    for index, place, hide in ((1, places[1], None), (2, places[2], hidden))
                ]
                for join in joins:
                    join.result()
            other = subprocess.Popen(
                [*places[0].enter, sys.executable, "-c", OTHER],
                env={**settings, "RAY_ADDRESS": address},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            yield RayCluster(address, places[0], settings, other, hidden)
            other.communicate(timeout=30)


def start_node(
    place: nodes.Node, index: int, folder: Path, settings: dict[str, str], *how: str, hide: Path | None = None
) -> None:
    """Start a node of Ray as its user does; the head has no core for ranks, each other node has one."""
    setup = f"hostname n{index}" + (f" && mount -t tmpfs none {hide}" if hide else "")
    options = [f"--node-ip-address={place.address}", f"--temp-dir={folder / str(index)}", "--num-gpus=0"]
    options += [f"--num-cpus={min(index, 1)}", f"--object-store-memory={100 * 2**20}"]
    ray = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", *how, *options]
    own = ["unshare", "--uts", "--mount", "sh", "-c", f'{setup} && exec "$@"', "sh"]
    done = subprocess.run(
        [*place.enter, *own, *ray], env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def await_event(paths: RunPaths, kind: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the first event of a kind in a run's log."""
    deadline = time.monotonic() + SECONDS
    while not (paths.log.exists() and events(paths, kind)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return events(paths, kind)[0]


def test_a_run_waits_for_room_is_killed_and_resumes(
    cluster: RayCluster, digits: Dataset, tmp_path: Path, undisturbed: tuple[RunPaths, str]
) -> None:
    """One story, since each start costs seconds: wait and stop; wait, train and be killed; resume and end."""
    paths = RunPaths(tmp_path / "run")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [*small_run(digits, tmp_path, *SMALL), "--ray", "auto"]

    assert cluster.ask("hold") == HELD
    stopped = cluster.start(command, RAY_ADDRESS=cluster.address, TMPDIR=str(temporary))
    waiting = await_event(paths, "waiting", stopped)
    assert waiting["message"] == "for 2 ranks of 1 CPU each: the cluster has room for 1 now"
    stopped.send_signal(signal.SIGTERM)
    said = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == os.EX_TEMPFAIL, said
    cluster.await_only(HELD)

    killed = cluster.start(command, RAY_ADDRESS=cluster.address, TMPDIR=str(temporary))
    while len(events(paths, "waiting")) < 2:
        assert killed.poll() is None
        time.sleep(0.1)
    cluster.ask("release")
    await_event(paths, "job-done", killed)
    for process in [psutil.Process(killed.pid), *psutil.Process(killed.pid).children(recursive=True)]:
        process.kill()
    killed.communicate(timeout=60)
    cluster.await_only(EMPTY)
    assert list(paths.rendezvous.iterdir())  # nobody was left to remove it

    ended = cluster.start(command, RAY_ADDRESS=cluster.address, TMPDIR=str(temporary), **SUBMITTED)
    said = ended.communicate(timeout=SECONDS)[1]
    assert ended.returncode == 0, said
    cluster.await_only(EMPTY)
    assert not paths.rendezvous.exists()
    assert list(temporary.glob("distlth-*")) == []
    assert digests(paths) == digests(undisturbed[0])


def digests(paths: RunPaths) -> dict[str, tuple[str, ...]]:
    """The digests of the masks and weights of the jobs that both runs have."""
    return {job: (result.mask_digest, result.weights_digest) for job, result in results(paths, JOBS).items()}


# What is refused -> what its one line says. First what is found when a run starts, then when it connects.
RUNS = {
    "wrong token": "does not accept this user's token, or there is none; expected RAY_AUTH_MODE=token",
    "too many ranks": "3 ranks of 1 CPU each do not fit into the cluster: its 3 nodes have room for 2, ",
    "folder not shared": "cluster.ray: node n2 cannot use ",
    "other torch": "has torch 2",
}
CONNECTIONS = {
    "no answer": "cluster.ray: 198.18.0.1:6380 does not answer (",
    "no token": "does not accept this user's token, or there is none; expected RAY_AUTH_MODE=token",
    "no node": "cluster.ray: this machine is no node of the Ray cluster at 198.18.0.1:6379; run ",
    "a client's address": "cluster.ray: RAY_ADDRESS is ray://head:10001, for clients outside of the cluster;",
}
CONNECT = """
import sys
from cluster.runtime.connection import connect
from distlth.errors import UserError

try:
    connect(sys.argv[1], "distlth-run")
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture(scope="module")
def refused(cluster: RayCluster, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Refused:
    folder = tmp_path_factory.mktemp("refused")
    fake = folder / "fake" / "torch-9.9.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9\n")
    path = os.pathsep.join([str(fake.parent), os.environ.get("PYTHONPATH", "")])

    def run(runs: Path, *more: str, **changes: str) -> subprocess.Popen[str]:
        return cluster.start([*small_run(digits, runs, *SMALL, *more), "--ray", cluster.address], **changes)

    def connect(address: str, *prefix: str, **changes: str) -> subprocess.Popen[str]:
        return cluster.start([*prefix, sys.executable, "-c", CONNECT, address], **changes)

    started = {
        "wrong token": run(folder / "runs", RAY_AUTH_TOKEN="0" * 64, RAY_AUTH_TOKEN_PATH=""),
        "too many ranks": run(folder / "runs", "name=many", "cluster.workers=3"),
        "folder not shared": run(cluster.hidden),
        "other torch": run(folder / "runs", "name=torch", PYTHONPATH=path),
        "no answer": connect(cluster.address.replace("6379", "6380")),
        "no token": connect(cluster.address, RAY_AUTH_MODE="disabled"),
        "no node": connect(cluster.address, "unshare", "--pid", "--fork", "--mount-proc"),
        "a client's address": connect("auto", RAY_ADDRESS="ray://head:10001"),
    }
    said = {name: process.communicate(timeout=SECONDS)[1] for name, process in started.items()}
    ends = {name: (said[name], process.returncode) for name, process in started.items()}
    left = [path for runs in (folder / "runs", cluster.hidden) for path in runs.glob("*")]
    return Refused(ends, left)


@dataclass(frozen=True)
class Refused:
    """What was said to each run that cannot be, its exit code, and what is left of all of them."""

    ends: dict[str, tuple[str, int]]
    left: list[Path]


@pytest.mark.parametrize("name", [*RUNS, *CONNECTIONS])
def test_what_cannot_be_is_refused_by_one_line(refused: Refused, name: str) -> None:
    said, code = refused.ends[name]
    assert code == 2, said
    line = said.splitlines()[-1]  # Ray itself warns of a token that is wrong
    assert {**RUNS, **CONNECTIONS}[name] in line
    if name in RUNS:
        assert said == f"{line}\n"
        assert line.startswith("error: cluster.ray: ")


def test_a_refused_run_leaves_nothing(refused: Refused, cluster: RayCluster) -> None:
    assert refused.left == []
    cluster.await_only(EMPTY)


HERE = Sight({"Python": "3.11", "ray": "2.60.0", "torch": "2.14.1"}, "", "", "d1")


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (HERE, ""),
        (
            Sight({**HERE.versions, "Python": "3.12"}, "", "", "d1"),
            "has Python 3.12, this one has 3.11; use one",
        ),
        (
            Sight({"Python": "3.11", "ray": "2.60.0"}, "", "", "d1"),
            "has torch not installed, this one has 2.14.1",
        ),
        (
            Sight(HERE.versions, "", "", "d2"),
            "has another data set at /data (d2, not d1); all must see the same",
        ),
        (
            Sight(HERE.versions, "", "/data: no such", ""),
            "cannot read the data set (/data: no such); all nodes",
        ),
        (Sight(HERE.versions, "read-only", "", "d1"), "cannot use /runs/run (read-only); runs must be on"),
    ],
)
def test_a_node_that_does_not_fit_is_told_what_is_wrong(there: Sight, expected: str) -> None:
    found = refusal(HERE, there, Path("/runs/run/nodes/distlth-run-1"), Path("/data"))
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


@pytest.mark.parametrize(
    ("ray", "python", "fits"),
    [
        ("2.60.0", "3.11.7", True),
        ("2.60.0", "3.11.2", True),
        ("2.60.0", "3.10.7", False),
        ("2.59.0", "3.11.7", False),
    ],
)
def test_an_incompatible_ray_or_python_is_refused(ray: str, python: str, fits: bool) -> None:
    found = version_refusal({"ray_version": ray, "python_version": python}, "2.60.0", "3.11.7")
    assert bool(found) != fits
    if not fits:
        assert found.startswith(
            f"runs Ray {ray} on Python {python}, this process has Ray 2.60.0 on Python 3.11.7;"
        )


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "head.lab:6379", "[fd00::1]:6379"])
def test_an_address_is_one_of_a_cluster(address: str) -> None:
    assert ClusterSection(ray=address).ray == address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ray://head:10001", "ray job submit -- distlth run JOB.yaml --ray auto"),
        ("http://head:8265", "is for clients outside of the cluster"),
        ("head", "expected auto or HOST:PORT, such as 10.0.0.1:6379, got 'head'"),
    ],
)
def test_any_other_address_is_refused(quickstart: Path, address: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.ray") as error:
        load_config(quickstart, [f"cluster.ray={address}"])
    assert expected in str(error.value)


def test_a_submitted_run_has_a_ray_of_its_own() -> None:
    with pytest.raises(ConfigError, match="needs no SLURM job; use distlth run"):
        check_ray_is_its_own(ClusterSection(ray="auto"))


def test_a_rank_asks_for_the_cores_that_feed_its_gpu(quickstart: Path) -> None:
    config = load_config(quickstart, ["cluster.lanes=2", "cluster.workers=2", "data.threads=8"])
    need = Need.of(config, "cuda")
    assert (need.ranks, need.bundle) == (4, {"CPU": 10.0, "GPU": 1.0})
    assert [
        need.fit(node) for node in ({"CPU": 64.0, "GPU": 8.0}, {"CPU": 25.0, "GPU": 8.0}, {"CPU": 64.0})
    ] == [6, 2, 0]
    assert str(need) == "4 ranks of 1 GPU and 10 CPUs each"
    assert Need.of(config, "cpu").bundle == {"CPU": 1.0}


def test_a_guest_reads_by_absolute_paths_and_as_many_threads_as_it_asked_for(quickstart: Path) -> None:
    config = load_config(quickstart, ["data.path=digits", "cluster.cpus_per_worker=3", "data.threads=null"])
    assert guest_config(config, "cuda").data.threads == 4
    assert guest_config(config, "cpu").data.threads == 3
    assert guest_config(config, "cpu").data.path == Path("digits").absolute()
