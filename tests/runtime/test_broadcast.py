"""Broadcasts on real raylets: bytes arrive whole, are fetched once per node, and not all from the head."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cluster.bench import nodes
from cluster.bench.broadcast import OBJECT, PIECES, BroadcastRow, bench
from cluster.runtime.broadcast import PIECE_BYTES, order_of
from cluster.runtime.session import environment, session_folder

NODES = 3

# Two ranks on each of four raylets fetch broadcasts of no byte, one byte, one piece, and several pieces.
PROGRAM = """
import hashlib, os, ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from cluster.runtime.broadcast import PIECE_BYTES, fetch, hand_out

@ray.remote(num_cpus=0)
def digest(pieces):
    return ray.get_runtime_context().get_node_id(), hashlib.sha256(fetch(pieces)).hexdigest()

def on(node):
    return digest.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))

options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
for _ in range(3):
    cluster.add_node(wait=False, **options)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
for size in (0, 1, PIECE_BYTES, 5 * PIECE_BYTES + 1):
    data = os.urandom(size)
    pieces = hand_out(data)  # once: what does not fit the store is spilled, which a nearly full disk refuses
    found = ray.get([on(node).remote(pieces) for node in nodes for _ in range(2)])
    assert {node for node, _ in found} == nodes
    assert {digest for _, digest in found} == {hashlib.sha256(data).hexdigest()}, size
print(len(nodes), "nodes")
ray.shutdown()
"""


def test_every_rank_of_every_node_gets_the_same_bytes() -> None:
    with session_folder() as folder:
        settings = environment(folder) | {"RAY_TMPDIR": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=settings, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "4 nodes"


@pytest.mark.skipif(nodes.missing() is not None, reason=f"{nodes.missing()}")
def test_nodes_fetch_once_and_from_each_other() -> None:
    """Measured on the links: with Ray's own way the head sends every copy, with pieces it does not."""
    rows = bench((NODES,), size=10 * PIECE_BYTES, megabits_per_s=400, reply_nodes=0)
    sent = {row.way: row for row in rows}
    assert set(sent) == {OBJECT, PIECES}
    assert copies(sent[OBJECT]) > 0.95 * NODES
    assert copies(sent[PIECES]) < 0.85 * NODES  # 1.8 are expected
    assert all((row.fetches_per_node or 0) < 1.2 for row in rows)


def copies(row: BroadcastRow) -> float:
    assert row.head_copies is not None
    return row.head_copies


def test_each_node_has_an_order_of_its_own() -> None:
    orders = [order_of(node, 26) for node in ("a", "b", "c")]
    assert all(sorted(order) == list(range(26)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert order_of("a", 26) == orders[0]
