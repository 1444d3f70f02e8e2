"""What ranks send each other: kept gradients alone, to the same weights as all of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distlth.files import tensors_digest
from distlth.train import all_reduce
from distlth.train.all_reduce import MOST_PIECES, Places, positions
from tests.train.gradient_ranks import KINDS, RANKS, STEPS, masks, network

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-W", "error::FutureWarning", "-m", "tests.train.gradient_ranks", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_ranks_come_to_the_same_choice(found: list[dict[str, Any]], dtype: torch.dtype) -> None:
    first, second = (each[f"trial of {dtype}"] for each in found)
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
    if places.index is not None:  # as on a GPU
        gathering = replace(places, positions=positions(kept))
        assert torch.equal(gathering.put(torch.full((4000,), float("nan")), taken), entries * kept)
    assert len(entries) < all_reduce.BUCKET_ENTRIES


@pytest.mark.parametrize("pieces", [True, False])
def test_what_is_dropped_becomes_zero_whatever_it_was(pieces: bool) -> None:
    kept = torch.arange(4000) < 100 if pieces else torch.arange(4000) % 2 == 0
    entries, places = torch.full((4000,), float("nan")), Places.of(kept)
    assert (places.index is None) == pieces
    assert torch.equal(places.put(entries, torch.ones(int(kept.sum()))), kept.float())
