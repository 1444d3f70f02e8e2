"""Benchmark of broadcasting a ticket to N nodes: time, bytes that the head sends, fetches per node.

Compares three ways in one run: a reply to each rank's call (`reply`), one object in Ray's store (`object`),
and the object in pieces that nodes also fetch from each other (`pieces`, which lanes use). Each node is a
raylet with its own object store; the network between them is that of `cluster.bench.nodes`.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.bench import nodes as simulated
from cluster.runtime.broadcast import fetch, hand_out
from cluster.runtime.session import LOOPBACK, environment, session_folder

# Of a ResNet-50: the file of the weights, and the packed mask.
WEIGHTS_BYTES, MASK_BYTES = 102_469_904, 2_931_864

REPLY, OBJECT, PIECES = "reply", "object", "pieces"
PORT = 6379
START_SECONDS = 120.0
STARTS_AT_ONCE = 4


@dataclass(frozen=True)
class BroadcastRow:
    """One broadcast to `nodes` nodes with `ranks` ranks each, on links of `link_mbit_s` (None: no limit).

    `growth` is the time relative to that of the fewest nodes. In copies of the ticket, `head_copies` is what
    the head sent, `fetches_per_node` the most that a node received, `peers_copies` what nodes sent each
    other: read from the counters of each node's network, None where nodes share one.
    """

    way: str
    nodes: int
    ranks: int
    link_mbit_s: float | None
    seconds: float
    growth: float
    head_copies: float | None
    fetches_per_node: float | None
    peers_copies: float | None


@dataclass(frozen=True)
class _Plan:
    """What the measuring process is to do; without an address it starts the raylets itself."""

    address: str | None
    counts: Sequence[int]
    ranks: int
    size: int
    ways: Mapping[str, int]  # the way, and its most nodes
    store: int
    link_mbit_s: float | None = None


def bench(
    counts: Sequence[int] = (1, 2, 4, 8, 16),
    *,
    ranks: int = 2,
    size: int = WEIGHTS_BYTES + MASK_BYTES,
    megabits_per_s: float = 200.0,
    links: bool | None = None,
    reply_nodes: int = 4,
) -> list[BroadcastRow]:
    """Broadcast `size` bytes to each number of nodes in each way (`reply` to at most `reply_nodes` nodes).

    `links` simulates links of this rate; by default, where this machine can.

    Raises:
        RuntimeError: links cannot be simulated, or Ray does not start.
    """
    reason = simulated.missing()
    if links and reason:
        raise RuntimeError(f"links cannot be simulated: {reason}")
    links = reason is None if links is None else links
    print(_about(links, megabits_per_s, reason), file=sys.stderr)
    ways = {REPLY: reply_nodes, OBJECT: max(counts), PIECES: max(counts)}
    with ExitStack() as stack:
        folder = stack.enter_context(session_folder())
        settings = environment(folder) | {"RAY_TMPDIR": str(folder)}
        plan = _Plan(
            None, counts, ranks, size, ways, store=max(size * max(4, 2 * ranks * reply_nodes), 100 * 2**20)
        )
        head: simulated.Node | None = None
        if links:
            settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"  # otherwise `ray start` joins no cluster
            places = stack.enter_context(simulated.linked(max(counts) + 1, megabits_per_s, settings))
            head = places[0]
            plan = replace(plan, address=f"{head.address}:{PORT}", link_mbit_s=megabits_per_s)
            _start_ray(plan, places, folder, settings)
        return _run_in(head, plan, settings)


def _about(links: bool, megabits_per_s: float, reason: str | None) -> str:
    if links:
        return f"each node is a network namespace on a link of {megabits_per_s:g} Mbit/s"
    return (
        f"nodes share this machine's loopback ({reason or 'as asked'}): times only, of its cores and memory"
    )


def _run_in(head: simulated.Node | None, plan: _Plan, settings: Mapping[str, str]) -> list[BroadcastRow]:
    done = subprocess.run(
        [*(head.enter if head else ()), sys.executable, "-P", "-m", "cluster.bench.broadcast"],
        input=json.dumps(asdict(plan)),
        env=dict(settings),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [BroadcastRow(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def _start_ray(
    plan: _Plan, places: Sequence[simulated.Node], folder: Path, settings: Mapping[str, str]
) -> None:
    """Start a raylet on each simulated node, as on a real one."""

    def start(index: int) -> None:
        join = ("--head", f"--port={PORT}", "--include-dashboard=false")
        options = [
            *(join if index == 0 else (f"--address={plan.address}",)),
            f"--node-ip-address={places[index].address}",
            f"--temp-dir={folder / str(index)}",
            f"--object-store-memory={plan.store}",
            "--num-cpus=1",
            "--num-gpus=0",
            "--include-log-monitor=false",
        ]
        command = [*places[index].enter, sys.executable, "-P", "-m", "ray.scripts.scripts", "start", *options]
        done = subprocess.run(command, env=dict(settings), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"Ray did not start on a simulated node:\n{done.stdout}{done.stderr}")

    start(0)
    with ThreadPoolExecutor(STARTS_AT_ONCE) as pool:
        list(pool.map(start, range(1, len(places))))


# -- in the measuring process, in the head's network ---------------------------------------------------------


@ray.remote(num_cpus=0)
class _Source:
    """Stands for a coordinator that replies with the ticket itself."""

    def __init__(self, size: int) -> None:
        self.data = os.urandom(size)

    def reply(self) -> bytes:
        return self.data


@ray.remote(num_cpus=0)
class _Rank:
    """Stands for a rank of a lane: fetches tickets."""

    def fetch(self, way: str, given: Any) -> int:
        if way == REPLY:
            return len(ray.get(given[0].reply.remote()))
        return len(ray.get(given[0]) if way == OBJECT else fetch(given))

    def traffic(self) -> tuple[int, int]:
        return _traffic()


def _traffic() -> tuple[int, int]:
    """Return the bytes that this node's network has received and sent; zeros where nodes share one."""
    found = psutil.net_io_counters(pernic=True)
    return (found["eth0"].bytes_recv, found["eth0"].bytes_sent) if "eth0" in found else (0, 0)


def main() -> None:
    """Measure what standard input asks for; print the rows as JSON."""
    plan = _Plan(**json.load(sys.stdin))
    ray.init(address=plan.address or _raylets_here(plan), log_to_driver=False, logging_level=logging.ERROR)
    ranks = _ranks(plan)
    rows: list[BroadcastRow] = []
    for way, most in plan.ways.items():
        for count in [count for count in plan.counts if count <= most]:
            row = _measure(plan, way, [ranks[index] for index in range(count)])
            first = next((r.seconds for r in rows if r.way == way), row["seconds"])
            rows.append(BroadcastRow(**row, growth=row["seconds"] / first))
            print(f"{way}, {count} nodes: {row['seconds']:.1f} s", file=sys.stderr, flush=True)
    print(json.dumps([asdict(row) for row in rows]))


def _raylets_here(plan: _Plan) -> str:
    """Start several raylets on this machine's loopback; return the address of their head."""
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": plan.store, "node_ip_address": LOOPBACK}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    for _ in range(max(plan.counts)):
        cluster.add_node(wait=False, **options)
    address: str = cluster.address
    return address


def _ranks(plan: _Plan) -> list[list[Any]]:
    """Return the ranks of each node but the head, warmed up."""
    deadline = time.monotonic() + START_SECONDS
    while len(found := _alive()) <= max(plan.counts):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(found)} of {max(plan.counts) + 1} simulated nodes have started")
        time.sleep(0.2)
    here = ray.get_runtime_context().get_node_id()
    ranks = [[_rank_on(node) for _ in range(plan.ranks)] for node in found if node != here]
    given = hand_out(bytes(2**20))
    for node in ranks:  # one node after the other: each rank imports Ray
        ray.get([rank.fetch.remote(PIECES, given) for rank in node])
    return ranks


def _alive() -> list[str]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["NodeID"] for node in nodes if node["Alive"]]


def _rank_on(node: str) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return _Rank.options(scheduling_strategy=there).remote()  # type: ignore[attr-defined]


def _measure(plan: _Plan, way: str, ranks: Sequence[Sequence[Any]]) -> dict[str, Any]:
    given = _given(way, plan.size)
    before = _all_traffic(ranks)
    start = time.perf_counter()
    sizes = ray.get([rank.fetch.remote(way, given) for node in ranks for rank in node])
    seconds = time.perf_counter() - start
    assert set(sizes) == {plan.size}
    _settle(plan)
    after = _all_traffic(ranks)
    received, sent = (
        [(b[side] - a[side]) / plan.size for a, b in zip(before, after, strict=True)] for side in (0, 1)
    )
    known = plan.link_mbit_s is not None
    return {
        "way": way,
        "nodes": len(ranks),
        "ranks": plan.ranks,
        "link_mbit_s": plan.link_mbit_s,
        "seconds": seconds,
        "head_copies": sent[0] if known else None,
        "fetches_per_node": max(received[1:]) if known else None,
        "peers_copies": sum(sent[1:]) if known else None,
    }


def _settle(plan: _Plan) -> None:
    """Wait until the head has stopped sending: Ray repeats slow pulls, and the object is sent twice."""
    before = -plan.size
    while (sent := _traffic()[1]) - before > plan.size / 100:
        before = sent
        time.sleep(0.3)


def _given(way: str, size: int) -> Any:
    if way == REPLY:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        source = _Source.options(scheduling_strategy=here).remote(size)  # type: ignore[attr-defined]
        ray.get(source.__ray_ready__.remote())
        return [source]
    data = os.urandom(size)
    return [ray.put(data)] if way == OBJECT else hand_out(data)


def _all_traffic(ranks: Sequence[Sequence[Any]]) -> list[tuple[int, int]]:
    """Return the bytes received and sent by the networks of the head and of each node."""
    return [_traffic(), *ray.get([node[0].traffic.remote() for node in ranks])]


if __name__ == "__main__":
    main()
