"""What ranks send each other: kept gradients alone, to the same weights as all of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distlth.config.schema import TrainSection
from distlth.files import tensors_digest
from distlth.train import all_reduce
from distlth.train.all_reduce import MOST_PIECES, Places, SparseAllReduce, compare
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
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    found: dict[str, Any] = {
        f"{way}-{kind}": trained(rank, way, kind) for way, kind in itertools.product(WAYS, KINDS)
    }
    model = network()
    kept = {model.get_parameter(name): mask for name, mask in masks(model, "weights").items()}
    found["trial"] = vars(compare(model, kept, World(rank, RANKS, torch.device("cpu"))))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    assert run_ranks(be_a_rank, RANKS, folder) == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("kind", KINDS)
def test_kept_gradients_alone_train_the_same_weights(found: list[dict[str, Any]], kind: str) -> None:
    digests = {tensors_digest(each[f"{way}-{kind}"][0]) for each in found for way in ("plain", "all", "kept")}
    assert len(digests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_travels_than_what_is_kept(found: list[dict[str, Any]], kind: str) -> None:
    model = network()
    (mask,) = masks(model, kind).values()
    entries = sum(p.numel() for p in model.parameters())
    assert found[0][f"all-{kind}"][1] == STEPS * 4 * entries
    assert found[0][f"kept-{kind}"][1] == STEPS * 4 * (entries - int((~mask).sum()))
    assert found[0][f"bf16-{kind}"][1] * 2 == found[0][f"kept-{kind}"][1]


def test_sums_in_bf16_are_close(found: list[dict[str, Any]]) -> None:
    exact, rounded = found[0]["plain-weights"][0], found[0]["bf16-weights"][0]
    for name, weight in exact.items():
        assert not torch.equal(weight, rounded[name])
        torch.testing.assert_close(rounded[name], weight, rtol=0.02, atol=2e-3)
    assert tensors_digest(rounded) == tensors_digest(found[1]["bf16-weights"][0])


def test_all_ranks_come_to_the_same_choice(found: list[dict[str, Any]]) -> None:
    first, second = (each["trial"] for each in found)
    assert first == second
    assert 0 < first["share"] < 1
    assert min(first["all"], first["kept"]) > 0


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_what_is_taken_comes_back_to_its_place(share: float) -> None:
    generator = torch.Generator().manual_seed(2)
    kept, entries = torch.rand(4000, generator=generator) < share, torch.randn(4000, generator=generator)
    places = Places.of(kept)
    assert (places.index is None) == (len(places.pieces) > 0 or not kept.any())
    assert len(places.pieces) <= MOST_PIECES
    taken = places.take(entries)
    assert torch.equal(taken, entries[kept])
    assert torch.equal(places.put(entries.clone(), taken), entries * kept)
    assert len(entries) < all_reduce.BUCKET_ENTRIES
