"""Two ranks that send their gradients in each of WAYS: python -m tests.train.gradient_ranks FOLDER."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distlth.config.schema import TrainSection
from distlth.train.all_reduce import SparseAllReduce, compare
from distlth.train.step import StepState, train_step
from distlth.train.world import World
from tests.forked import run_ranks

RANKS, STEPS = 2, 4
CONFIG = TrainSection(epochs=1, batch_size=16, lr=0.1)
WAYS = ("plain", "all", "kept", "bf16")
KINDS = ("weights", "channels")


def network() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(32 * 16, 4)).to(memory_format=torch.channels_last)


def masks(model: nn.Module, kind: str) -> dict[str, Tensor]:
    """A quarter of the second convolution, in single weights or whole channels; the others lose nothing."""
    shape = model.get_parameter("2.weight").shape
    if kind == "channels":
        return {"2.weight": (torch.arange(shape[0]) % 4 == 1).view(-1, 1, 1, 1).expand(shape)}
    return {"2.weight": torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.25}


def trained(rank: int, way: str, kind: str) -> tuple[dict[str, Tensor], int]:
    """The weights after some steps, and the bytes that this rank gave away."""
    world, model = World(rank, RANKS, torch.device("cpu")), network()
    replicas = world.wrap(model)
    assert isinstance(replicas, DistributedDataParallel)
    dtype = torch.bfloat16 if way == "bf16" else torch.float32
    exchange = None if way == "plain" else SparseAllReduce(replicas, world, dtype)
    state = StepState.fresh(model, replicas, masks(model, kind), CONFIG, world, seed=0)
    if exchange is not None:
        exchange.use({} if way == "all" else state.masking.kept())
    sent, send = [0], dist.all_reduce

    def counted(entries: Tensor, **options: Any) -> Any:
        sent[0] += entries.nbytes
        return send(entries, **options)

    generator = torch.Generator().manual_seed(rank)
    with patch.object(dist, "all_reduce", counted):
        for step in range(STEPS):
            images = torch.randn(8, 3, 8, 8, generator=generator).to(memory_format=torch.channels_last)
            train_step(state, images, torch.arange(8) % 4, step=step, lr=0.1)
    state.masking.check_zeros()
    return dict(model.state_dict()), sent[0]


def be_a_rank(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    found: dict[str, Any] = {
        f"{way}-{kind}": trained(rank, way, kind) for way, kind in itertools.product(WAYS, KINDS)
    }
    model = network()
    kept = {model.get_parameter(name): mask for name, mask in masks(model, "weights").items()}
    world = World(rank, RANKS, torch.device("cpu"))
    for dtype in (torch.float32, torch.bfloat16):
        found[f"trial of {dtype}"] = vars(compare(model, kept, world, dtype))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(run_ranks(be_a_rank, RANKS, Path(sys.argv[1])))
