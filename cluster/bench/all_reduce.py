"""How long a step of two ranks takes over a slow link: all gradients sent, the kept ones alone, or none."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from statistics import median

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
# The ticket, which gradients travel, and in what type. All are compared with the first.
WAYS = (
    ("magnitude", "all", "float32"),
    ("magnitude", "kept", "float32"),
    ("refill", "kept", "float32"),
    ("magnitude", "all", "bf16"),
    ("magnitude", "kept", "bf16"),
    ("magnitude", "none", None),
)
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
# Images a rank, and their side in pixels: the least that ResNets take, as a GPU computes briefly; and more.
BATCHES = ((2, 32), (4, 64))


@dataclass(frozen=True)
class AllReduceRow:
    """Steps of two ranks on links of `link_mbit_s` (None: no limit), with a `batch` each.

    `sent_mb` is what a rank gives to the all-reduces of a step, `milliseconds` a step's median,
    `to_all` its ratio to a step with all gradients in float32: a median over rounds. With none sent, a
    step is computation alone.
    """

    ticket: str
    sent: str
    dtype: str | None
    batch: str
    link_mbit_s: float | None
    sent_mb: float
    milliseconds: float
    to_all: float


@dataclass(frozen=True)
class _Plan:
    """What the ranks are to do: `places` are their nodes."""

    model: str
    batches: tuple[tuple[int, int], ...]
    density: float
    rounds: int
    places: tuple[simulated.Node, ...]
    link_mbit_s: float | None

    @classmethod
    def read(cls, text: str) -> _Plan:
        """Return the plan that JSON describes."""
        values = json.loads(text)
        values["batches"] = tuple(tuple(batch) for batch in values["batches"])
        values["places"] = tuple(simulated.Node(**place) for place in values["places"])
        return cls(**values)


def bench(
    *,
    model: str = "resnet50",
    batches: Sequence[tuple[int, int]] = BATCHES,
    density: float = 0.26,
    rounds: int = 5,
    megabits_per_s: float = 1000.0,
    links: bool | None = None,
) -> list[AllReduceRow]:
    """Train two ranks on random images in each way in turn, with each of `batches`: images a rank, pixels.

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
        rate = megabits_per_s if links else None
        return _run(_Plan(model, tuple(batches), density, rounds, tuple(places), rate), settings)


def _run(plan: _Plan, settings: Mapping[str, str]) -> list[AllReduceRow]:
    """Run the ranks in a process of their own, which has one thread when it forks them."""
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "cluster.bench.all_reduce"],
        input=json.dumps(asdict(plan)),
        env=dict(settings),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError("a rank of the benchmark failed; what it said stands above")
    return [AllReduceRow(**row) for row in json.loads(ended.stdout.splitlines()[-1])]


# -- in the process of the ranks --------------------------------------------------------------------------


def main(plan: _Plan) -> int:
    """Fork the ranks, of which the first prints the rows; return the highest exit code."""
    importlib.import_module("torch._dynamo")  # DDP imports it: once here rather than in each rank
    torch.set_num_threads(1)
    model = build(plan.model, 1000, seed=0)
    masks = {ticket: _masks(model, plan, ticket) for ticket in {ticket for ticket, _, _ in WAYS}}
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_be_a_rank, args=(rank, plan, model, masks)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return max(abs(process.exitcode or 0) for process in ranks)


def _masks(model: nn.Module, plan: _Plan, ticket: str) -> dict[str, Tensor]:
    convs = prunable(anatomy(model, plan.batches[0][1]), "all")
    dense = Mask.dense({conv.name: conv.weight_shape for conv in convs})
    weights = {name: model.get_parameter(f"{name}.weight").detach().contiguous() for name in dense}
    mask = prune_magnitude(weights, dense, 1 - plan.density)
    if ticket == "refill":
        mask = refill(mask, weights)
    return {f"{name}.weight": kept for name, kept in mask.items()}


class _Way:
    """A network that trains in one of the ways."""

    def __init__(
        self, model: nn.Module, masks: Mapping[str, Tensor], world: World, sent: str, dtype: str | None
    ) -> None:
        replicas = world.wrap(model)
        assert isinstance(replicas, DistributedDataParallel)
        self._state = StepState.fresh(model, replicas, masks, CONFIG, world, seed=0)
        self._exchange = replicas.no_sync if sent == "none" else nullcontext
        if sent == "kept" or dtype == "bf16":
            gradients = SparseAllReduce(replicas, world, DTYPES[dtype or "float32"])
            gradients.use(self._state.masking.kept() if sent == "kept" else {})
        entries = sum(parameter.numel() for parameter in model.parameters())
        dropped = sum(int((~mask).sum()) for mask in masks.values())
        travel = {"all": entries, "kept": entries - dropped, "none": 0}[sent]
        self.sent_mb = travel * DTYPES[dtype or "float32"].itemsize / 1e6

    def seconds(self, images: Tensor) -> float:
        """Return what a step takes."""
        labels = torch.arange(len(images))
        dist.barrier()
        started = time.perf_counter()
        with self._exchange():
            train_step(self._state, images, labels, step=0, lr=CONFIG.lr)
        return time.perf_counter() - started


def _be_a_rank(rank: int, plan: _Plan, model: nn.Module, masks: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Measure each way; the first rank prints the rows."""
    place = plan.places[rank]
    place.join()
    address = f"tcp://{plan.places[0].address}:{PORT}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=RANKS)
    world = World(rank, RANKS, torch.device("cpu"))
    ways = [_Way(deepcopy(model), masks[ticket], world, sent, dtype) for ticket, sent, dtype in WAYS]
    rows = [row for batch in plan.batches for row in _measure(ways, plan, batch, rank)]
    if world.is_main:
        print(json.dumps([asdict(row) for row in rows]), flush=True)
    dist.destroy_process_group()


def _measure(ways: Sequence[_Way], plan: _Plan, batch: tuple[int, int], rank: int) -> list[AllReduceRow]:
    """Take steps of each way in turn, on one batch."""
    count, side = batch
    images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(rank))
    for way in (*ways, *ways):  # DDP lays its buckets out anew after the first step
        way.seconds(images)
    rounds = [[way.seconds(images) for way in ways] for _ in range(plan.rounds)]
    return [
        AllReduceRow(
            *(ticket, sent, dtype, f"{count} of {side} px"),
            plan.link_mbit_s,
            way.sent_mb,
            1e3 * median(seconds[index] for seconds in rounds),
            median(seconds[index] / seconds[0] for seconds in rounds),
        )
        for index, ((ticket, sent, dtype), way) in enumerate(zip(WAYS, ways, strict=True))
    ]


if __name__ == "__main__":
    sys.exit(main(_Plan.read(sys.stdin.read())))
