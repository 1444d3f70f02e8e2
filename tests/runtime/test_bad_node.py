"""A node on which ranks die again and again: a run goes on without it where it may.

Two raylets stand for two nodes. On one of them every rank is killed soon after its start, as a GPU that has
fallen off the bus does it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.runtime.allocation import Allocation
from cluster.runtime.lane import culprits
from cluster.runtime.rendezvous import Rendezvous
from cluster.slurm.order import Order
from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.run.paths import RunPaths
from tests.chaos.harness import RECIPE, ROOT, events
from tests.small_run import OVERRIDES, results

# Ray Train tells a rank its number by its environment.
BAD = """
import os, signal, threading, time

def die():
    while "RANK" not in os.environ:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("SLURMD_NODENAME") == "n2":
    threading.Thread(target=die, daemon=True).start()
"""


def test_a_run_goes_on_without_the_node_where_its_ranks_die(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "inject").mkdir()
    (tmp_path / "inject" / "sitecustomize.py").write_text(BAD)
    paths = RunPaths(tmp_path / "run")
    options = [*OVERRIDES, "prune.rounds=0", "prune.branches=[]", "cluster.retries=0", "name=run"]
    options += ["cluster.nodes=2", "cluster.workers=2", "cluster.min_nodes=1", f"runs={tmp_path}"]
    config = load_config(RECIPE, [*options, f"data.path={digits.path}"])
    rendezvous = Rendezvous(paths.rendezvous / "1")
    rendezvous.open()
    order = Order(config, Allocation(rendezvous.folder, "127.0.0.1"), ())

    long = tmp_path / ("temporary-folder-of-a-job-" * 3)  # longer than Ray's sockets may be
    long.mkdir()

    def start(module: str, name: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(tmp_path / "inject"), str(ROOT)])
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**os.environ, "PYTHONPATH": path, "SLURMD_NODENAME": name, "TMPDIR": str(long)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdin is not None
        print(order.to_json(), file=process.stdin, flush=True)
        return process

    nodes = [start("cluster.slurm.head_node", "n1"), start("cluster.slurm.worker_node", "n2")]
    try:
        assert nodes[0].stdout is not None
        said = nodes[0].stdout.read()  # its input stays open: at its end it would stop
        assert nodes[0].wait() == 0, said
        rendezvous.close()  # the run is over: the worker node goes home
        assert nodes[1].wait(60) == 0
    finally:
        rendezvous.close()
        for process in nodes:
            process.terminate()
            process.communicate(timeout=60)
    (left_out,) = events(paths, "node-left-out")
    assert left_out["message"].startswith("lane 0 died 1 times without progress, each time on n2; ")
    assert results(paths, ["00"])["00"].world_size == 1
    assert list(long.glob("distlth-*")) == []


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({0: "Connection closed by peer [127.0.0.1]:1", 1: "CUDA error: an illegal memory access"}, [1]),
        ({0: "NCCL error: remote process exited", 1: "NCCL error: unhandled system error"}, [0, 1]),
        ({0: "CUDA error", 2: "CUDA error"}, [0, 2]),
    ],
)
def test_the_rank_at_fault_is_told_from_those_that_miss_it(
    errors: dict[int, str], expected: list[int]
) -> None:
    assert culprits({rank: RuntimeError(text) for rank, text in errors.items()}) == expected
