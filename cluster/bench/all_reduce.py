"""How long a step of two ranks takes over a slow link: with all gradients sent, or the kept ones alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cluster.bench import nodes as simulated
from distlth.config.schema import TrainSection
from distlth.models import anatomy, build, prunable
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.refill import refill
from distlth.train.all_reduce import SparseAllReduce
from distlth.train.step import StepState, train_step
from distlth.train.world import World

RANKS = 2
PORT = 29400
LOOPBACK = "127.0.0.1"
CONFIG = TrainSection(epochs=1, batch_size=1, lr=0.01)
# The ticket, whether its kept gradients travel alone, and the type in which they do.
WAYS = (
    ("magnitude", False, "float32"),
    ("magnitude", True, "float32"),
    ("refill", True, "float32"),
    ("magnitude", False, "bf16"),
    ("magnitude", True, "bf16"),
)
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class AllReduceRow:
    """Steps of two ranks on links of `link_mbit_s` (None: no limit).

    `sent_mb` is what a rank gives to the all-reduces of a step, `milliseconds` a step's median,
    `to_all` its ratio to a step with all gradients in float32: a median over rounds.
    """

    ticket: str
    sent: str
    dtype: str
    link_mbit_s: float | None
    sent_mb: float
    milliseconds: float
    to_all: float


@dataclass(frozen=True)
class _Plan:
    """What a rank is to do."""

    model: str
    resolution: int
    batch: int
    density: float
    rounds: int
    address: str
    link_mbit_s: float | None


def bench(
    *,
    model: str = "resnet50",
    resolution: int = 64,
    batch: int = 4,
    density: float = 0.26,
    rounds: int = 5,
    megabits_per_s: float = 1000.0,
    links: bool | None = None,
) -> list[AllReduceRow]:
    """Train two ranks, `batch` random images each, in each way in turn.

    `links` simulates links of this rate; by default, where this machine can.

    Raises:
        RuntimeError: links cannot be simulated, or a rank failed.
    """
    reason = simulated.missing()
    if links and reason:
        raise RuntimeError(f"links cannot be simulated: {reason}")
    links = reason is None if links is None else links
    where = (
        f"each rank has a link of {megabits_per_s:g} Mbit/s"
        if links
        else f"no links ({reason or 'as asked'})"
    )
    print(where, file=sys.stderr)
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        places = [simulated.Node(LOOPBACK)] * RANKS
        if links:
            settings["GLOO_SOCKET_IFNAME"] = "eth0"
            places = stack.enter_context(simulated.linked(RANKS, megabits_per_s, settings))
        plan = _Plan(
            model, resolution, batch, density, rounds, places[0].address, megabits_per_s if links else None
        )
        return [AllReduceRow(**row) for row in json.loads(_run(plan, places, settings))]


def _run(plan: _Plan, places: Sequence[simulated.Node], settings: Mapping[str, str]) -> str:
    """Run the ranks; return what the first one prints."""
    command = [sys.executable, "-P", "-m", "cluster.bench.all_reduce", json.dumps(asdict(plan))]
    ranks = [
        subprocess.Popen(
            [*place.enter, *command, str(rank)], env=dict(settings), stdout=subprocess.PIPE, text=True
        )
        for rank, place in enumerate(places)
    ]
    printed = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise RuntimeError("a rank of the benchmark failed; what it said stands above")
    return printed[0].splitlines()[-1]


# -- in a rank --------------------------------------------------------------------------------------------


class _Way:
    """A network that trains in one of the ways."""

    def __init__(self, plan: _Plan, world: World, ticket: str, alone: bool, dtype: str) -> None:
        model = build(plan.model, 1000, seed=0)
        masks = _masks(model, plan, ticket)
        replicas = world.wrap(model)
        assert isinstance(replicas, DistributedDataParallel)
        self._state = StepState.fresh(model, replicas, masks, CONFIG, world, seed=0)
        is_plain = not alone and dtype == "float32"
        exchange = None if is_plain else SparseAllReduce(replicas, world, DTYPES[dtype])
        if exchange is not None:
            exchange.use(self._state.masking.kept() if alone else {})
        dropped = sum(int((~mask).sum()) for mask in masks.values()) if alone else 0
        entries = sum(parameter.numel() for parameter in model.parameters()) - dropped
        self.sent_mb = entries * DTYPES[dtype].itemsize / 1e6

    def seconds(self, images: Tensor, labels: Tensor) -> float:
        """Return what a step takes."""
        dist.barrier()
        started = time.perf_counter()
        train_step(self._state, images, labels, step=0, lr=CONFIG.lr)
        return time.perf_counter() - started


def _masks(model: nn.Module, plan: _Plan, ticket: str) -> dict[str, Tensor]:
    convs = prunable(anatomy(model, plan.resolution), "all")
    dense = Mask.dense({conv.name: conv.weight_shape for conv in convs})
    weights = {name: model.get_parameter(f"{name}.weight").detach().contiguous() for name in dense}
    mask = prune_magnitude(weights, dense, 1 - plan.density)
    if ticket == "refill":
        mask = refill(mask, weights)
    return {f"{name}.weight": kept for name, kept in mask.items()}


def main(rank: int, plan: _Plan) -> None:
    """Be a rank; the first one prints the rows."""
    torch.set_num_threads(1)
    address = f"tcp://{plan.address}:{PORT}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=RANKS)
    world = World(rank, RANKS, torch.device("cpu"))
    ways = [_Way(plan, world, *way) for way in WAYS]
    generator = torch.Generator().manual_seed(rank)
    images = torch.randn(plan.batch, 3, plan.resolution, plan.resolution, generator=generator)
    labels = torch.arange(plan.batch)
    for way in ways * 2:  # DDP lays its buckets out anew after the first step
        way.seconds(images, labels)
    rounds = [[way.seconds(images, labels) for way in ways] for _ in range(plan.rounds)]
    if world.is_main:
        print(json.dumps([_row(plan, index, way, rounds) for index, way in enumerate(ways)]))
    dist.destroy_process_group()


def _row(plan: _Plan, index: int, way: _Way, rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    ticket, alone, dtype = WAYS[index]
    row = AllReduceRow(
        ticket,
        "kept" if alone else "all",
        dtype,
        plan.link_mbit_s,
        way.sent_mb,
        1e3 * median(seconds[index] for seconds in rounds),
        median(seconds[index] / seconds[0] for seconds in rounds),
    )
    return asdict(row)


if __name__ == "__main__":
    main(int(sys.argv[2]), _Plan(**json.loads(sys.argv[1])))
