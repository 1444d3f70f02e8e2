"""How a run is spread over nodes, how they find each other, and how its starts are counted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.runtime.allocation import Allocation
from cluster.runtime.placement import fewest_nodes, ranks_per_node, sized, smallest
from cluster.runtime.rendezvous import Call, Rendezvous, sweep_rendezvous
from cluster.runtime.session import LOOPBACK, environment, network
from cluster.slurm import worker_node
from cluster.slurm.attempts import check_progress
from cluster.slurm.order import Order
from cluster.slurm.worker_node import own_address
from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.errors import ConfigError, RunError
from distlth.plan import plan
from distlth.run.paths import RunPaths
from distlth.run.results import run_progress

RECIPE = Path(__file__).parent.parent.parent / "jobs" / "recipes" / "quickstart.yaml"
LIGHT = (
    "cluster.slurm.task",
    "cluster.slurm.order",
    "cluster.runtime.head",
    "cluster.slurm.worker_node",
    "cluster.slurm.submit",
    "cluster.runtime.messages",
    "jobs.cli",
)


def job(*overrides: str) -> RunConfig:
    return load_config(RECIPE, overrides)


class TestLayout:
    def test_a_lost_node_costs_its_own_ranks_only(self) -> None:
        config = job("train.batch_size=1024", "cluster.nodes=8", "cluster.workers=64")
        assert [sized(config, nodes).cluster.workers for nodes in (8, 7, 5, 1)] == [64, 56, 40, 8]
        assert sized(config, 7).train.batch_size == 1024

    def test_the_smallest_run_is_that_of_the_fewest_nodes(self) -> None:
        options = ("train.batch_size=1024", "cluster.nodes=8", "cluster.workers=64")
        assert smallest(job(*options)).cluster.workers == 64
        config = job(*options, "cluster.min_nodes=6")
        assert (smallest(config).cluster.workers, smallest(sized(config, 7)).cluster.workers) == (48, 48)
        assert smallest(sized(config, 1)) == sized(
            config, 1
        )  # run on one machine, whatever the job file says

    def test_lanes_share_what_is_left(self) -> None:
        config = job("train.batch_size=96", "cluster.nodes=4", "cluster.workers=1", "cluster.lanes=4")
        left = sized(config, 2).cluster
        assert (left.lanes, left.workers, left.nodes) == (2, 1, 2)

    @given(nodes=st.integers(1, 16), per_node=st.integers(1, 8), lanes=st.integers(1, 4), left=st.data())
    def test_no_node_gets_more_ranks_than_before(
        self, nodes: int, per_node: int, lanes: int, left: st.DataObject
    ) -> None:
        config = job("train.batch_size=96", f"cluster.lanes={lanes}")
        cluster = config.cluster.model_copy(update={"nodes": nodes, "workers": nodes * per_node})
        config = config.model_copy(update={"cluster": cluster})
        fewer = sized(config, left.draw(st.integers(1, nodes)))
        assert fewer.cluster.lanes * fewer.cluster.workers <= ranks_per_node(cluster) * fewer.cluster.nodes
        assert fewer.cluster.workers <= cluster.workers

    def test_without_min_nodes_none_may_be_lost(self) -> None:
        assert fewest_nodes(job("cluster.nodes=2", "cluster.workers=2").cluster) == 2
        assert fewest_nodes(job("cluster.nodes=2", "cluster.workers=2", "cluster.min_nodes=1").cluster) == 1

    def test_impossible_ones_are_refused_by_name(self) -> None:
        with pytest.raises(ConfigError, match=r"cluster\.nodes: 3 nodes for 1 lanes x 2 workers"):
            job("cluster.nodes=3", "cluster.workers=2")
        with pytest.raises(ConfigError, match=r"cluster\.min_nodes: 3 is above cluster\.nodes = 2"):
            job("cluster.nodes=2", "cluster.workers=2", "cluster.min_nodes=3")


class TestOrder:
    def test_it_comes_back_from_json_on_one_line(self) -> None:
        allocation = Allocation(Path("runs/a b/nodes/7-0"), "10.0.0.1")
        order = Order(job("cluster.nodes=2", "cluster.workers=2"), allocation, ("train.epochs",))
        assert Order.parse(order.to_json()) == order
        assert "\n" not in order.to_json()


class TestRendezvous:
    def test_nodes_hear_the_newest_call_until_the_head_closes(self, tmp_path: Path) -> None:
        head, node = Rendezvous(tmp_path / "nodes" / "7-0"), Rendezvous(tmp_path / "nodes" / "7-0")
        assert node.wait(None, 0) is None
        head.open()
        assert node.heard() is None
        first, second = Call("10.0.0.1:1", "a"), Call("10.0.0.1:2", "b")
        head.call(first)
        assert node.wait(None, 0) == first
        assert node.wait(first, 0) is None
        head.call(second)
        assert node.wait(first, 0) == second
        head.close()
        assert node.heard() is None
        assert not (tmp_path / "nodes").exists()

    def test_what_a_killed_head_left_is_removed_and_a_waiting_one_stays(self, tmp_path: Path) -> None:
        dead, waits = Rendezvous(tmp_path / "nodes" / "7-0"), Rendezvous(tmp_path / "nodes" / "8-0")
        dead.open()
        dead.call(Call("10.0.0.1:1", "a"))
        sweep_rendezvous(tmp_path / "nodes")
        assert not (tmp_path / "nodes").exists()
        dead.open()
        dead.call(Call("10.0.0.1:1", "a"))
        waits.open()
        sweep_rendezvous(tmp_path / "nodes")
        assert list((tmp_path / "nodes").iterdir()) == [waits.folder]

    def test_nobody_else_may_look(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            rendezvous = Rendezvous(tmp_path / "nodes" / "7-0")
            rendezvous.open()
            rendezvous.call(Call("10.0.0.1:1", "secret"))
        finally:
            os.umask(before)
        assert rendezvous.folder.stat().st_mode & 0o777 == 0o700
        assert [file.stat().st_mode & 0o777 for file in rendezvous.folder.iterdir()] == [0o600]


class TestProgress:
    def test_starts_that_come_no_further_are_bounded(self, tmp_path: Path) -> None:
        config, paths = job("cluster.retries=2"), RunPaths(tmp_path)
        for _ in range(3):
            check_progress(config, paths, "7")
        with pytest.raises(RunError, match="job 7 was started 3 times without coming further"):
            check_progress(config, paths, "7")
        check_progress(config, paths, "8")

    def test_a_checkpoint_is_progress(self, tmp_path: Path) -> None:
        config, paths = job("cluster.retries=0"), RunPaths(tmp_path)
        for step in range(4):
            paths.checkpoint("00", step).parent.mkdir(parents=True, exist_ok=True)
            paths.checkpoint("00", step).touch()
            check_progress(config, paths, "7")
        assert run_progress(paths, plan(config)) == "0 of 10 jobs are done, job 00 from step 3"


class TestNetwork:
    def test_between_nodes_nccl_is_left_alone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """SLURM starts tasks over Ethernet; NCCL would leave InfiniBand unused."""
        for name in [name for name in os.environ if name.startswith(("NCCL_", "GLOO_"))]:
            monkeypatch.delenv(name)
        (outer,) = {
            one.address
            for name, found in psutil.net_if_addrs().items()
            for one in found
            if name != "lo" and one.family == socket.AF_INET
        } or {LOOPBACK}
        if outer != LOOPBACK:
            settings = environment(tmp_path, outer, alone=False)
            assert settings["GLOO_SOCKET_IFNAME"] != "lo"
            assert "NCCL_SOCKET_IFNAME" not in settings
        assert environment(tmp_path)["NCCL_SOCKET_IFNAME"] == "lo"
        monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
        assert environment(tmp_path)["NCCL_SOCKET_IFNAME"] == "ib0"
        assert network()["NCCL_SOCKET_IFNAME"] == "ib0"
        assert "lo" in network()["interfaces"].split()


def test_a_node_is_reached_by_the_address_that_leads_to_the_head() -> None:
    assert own_address("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize("module", LIGHT)
def test_what_only_starts_others_loads_no_torch(module: str) -> None:
    """It takes seconds and hundreds of megabytes, on every node and at every start."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_port_that_is_another_processs_by_now_is_no_head_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head is lost, and something else listens where it did: a worker node gives up in the end."""
    monkeypatch.setattr(worker_node, "join_command", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    with socket.create_server(("127.0.0.1", 0)) as other:
        call: Any = SimpleNamespace(head=f"127.0.0.1:{other.getsockname()[1]}", token="0" * 32)
        rendezvous: Any = SimpleNamespace(heard=lambda: call)
        cluster: Any = SimpleNamespace(node_wait_seconds=0.1)
        worker_node._join(call, rendezvous, cluster, "cpu")
