"""The order `lanes`: what of it holds for any data, what it reads, how random it is, and that it is exact."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distlth.data import advice
from distlth.data.beton import read_beton
from distlth.data.dataset import Dataset
from distlth.data.identity import identity
from distlth.data.load import storage
from distlth.data.load.loader import TrainLoader
from distlth.data.load.order import epoch_order, lanes_order, part
from distlth.errors import DataError
from distlth.memory import Memory
from tests.data.fixtures import index, small_dataset, small_pages

BATCH, CLASSES, IN_PAGE, COUNT = 128, 100, 72, 36_000
PINNED = [9, 11, 7, 1, 5, 10, 8, 6, 0, 3]

Indices = npt.NDArray[np.int64]


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=300),
    st.integers(1, 300),
    st.integers(0, 2**40),
    st.integers(0, 9),
)
def test_each_sample_comes_at_most_once(pages: list[int], batch_size: int, seed: int, epoch: int) -> None:
    order = lanes_order(np.array(pages), batch_size, seed, epoch)
    assert len(order) == len(pages) // batch_size * batch_size
    assert len({*order.tolist()}) == len(order)
    assert {*order.tolist()} <= {*range(len(pages))}


def test_orders_are_pinned() -> None:
    """A stored run must find the same order after an update: these numbers must never change."""
    assert lanes_order(np.arange(12) // 3, 5, seed=1, epoch=2, lanes=3, window=2).tolist() == PINNED


@functools.cache
def packed() -> tuple[Indices, Indices]:
    """Page and class of samples, sorted by class, whose pages were filled in a shuffled order."""
    pages = np.empty(COUNT, np.int64)
    pages[np.random.default_rng(0).permutation(COUNT)] = np.arange(COUNT) // IN_PAGE
    return pages, np.arange(COUNT) * CLASSES // COUNT


@pytest.mark.parametrize("batch_size", [BATCH, 100, 127])
@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_a_node_reads_its_part_of_the_pages(batch_size: int, nodes: int) -> None:
    """Where the nodes do not divide the lanes, each border between nodes has one lane that both read."""
    pages, _ = packed()
    batches = lanes_order(pages, batch_size, 1, 0).reshape(-1, batch_size)
    parts = [part(batch_size, node, nodes) for node in range(nodes)]
    read = [len(np.unique(pages[batches[:, one.start : one.stop]])) for one in parts]
    cut = 0 if batch_size == BATCH else (nodes - 1) / 64
    assert sum(read) <= (1 + cut) * (pages.max() + 1) + 64
    assert max(read) < 1.15 * (pages.max() + 1) / nodes
    for one in parts:  # at any time, a few pages for each lane of the node
        window = pages[batches[100:102, one.start : one.stop]]
        assert len(np.unique(window)) < 64 / nodes * 5 + 5


def spread(order: Indices, labels: Indices) -> float:
    """The variance of the class counts of batches over their mean: 1 if drawn independently."""
    counts = np.stack([np.bincount(batch, minlength=CLASSES) for batch in labels[order].reshape(-1, BATCH)])
    return float(counts.var() / counts.mean())


def test_classes_in_batches_vary_as_in_a_full_shuffle() -> None:
    pages, labels = packed()
    full = [epoch_order(COUNT, 1, epoch)[: COUNT // BATCH * BATCH] for epoch in range(3)]
    lanes = [lanes_order(pages, BATCH, 1, epoch) for epoch in range(3)]
    expected, found = (np.mean([spread(order, labels) for order in orders]) for orders in (full, lanes))
    assert found == pytest.approx(expected, rel=0.05)


def test_each_epoch_mixes_and_drops_others() -> None:
    pages, _ = packed()
    orders = [lanes_order(pages, 1000, 1, epoch) for epoch in range(3)]
    dropped = [
        {*range(COUNT)} - {*order.tolist()} for order in [lanes_order(pages, 997, 1, e) for e in range(3)]
    ]
    assert len(orders[0]) == COUNT
    assert all(len(one) == COUNT % 997 for one in dropped)
    assert len(dropped[0] & dropped[1]) < len(dropped[0]) / 2
    neighbours = [{*zip(order[:-1].tolist(), order[1:].tolist(), strict=True)} for order in orders]
    assert len(neighbours[0] & neighbours[1]) < COUNT / 100


# Through the loader

ASKED: dict[str, Any] = {"batch_size": 8, "resolution": 16, "seed": 3, "shuffle": "lanes"}


SHAPE: dict[str, Any] = {"write_mode": "raw", "per_class": 40, "sizes": (40, 60)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three classes in some twelve pages."""
    with small_pages():
        return small_dataset(tmp_path_factory.mktemp("data"), **SHAPE)


def images(dataset: Dataset, first_step: int = 0, **asked: Any) -> list[torch.Tensor]:
    loader = TrainLoader(dataset, **{**ASKED, "threads": 1, **asked})
    with loader.epoch(1, first_step) as batches:
        found = [images for images, _ in batches]
    loader.close()
    return found


def test_batches_depend_on_nothing_but_the_epoch(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for any number of ranks, threads, any cache, and after a resume."""
    whole = images(dataset)
    assert len(whole) == 90 // 8
    assert not torch.equal(whole[0], images(dataset, shuffle="full")[0])
    for world_size in (2, 3):
        ranks = [images(dataset, rank=rank, world_size=world_size) for rank in range(world_size)]
        together = [torch.cat(parts) for parts in zip(*ranks, strict=True)]
        assert all(map(torch.equal, whole, together))
    assert all(map(torch.equal, whole[5:], images(dataset, first_step=5)))
    assert all(map(torch.equal, whole, images(dataset, cache="process", threads=2)))
    monkeypatch.setattr(storage, "SMALL_FILE", 0)
    assert all(map(torch.equal, whole, images(dataset)))


def test_pages_are_asked_for_once(dataset: Dataset) -> None:
    index = read_beton(dataset.file("train"), 3)
    loader = TrainLoader(dataset, threads=1, **ASKED)
    extents = storage.page_extents(index)
    asked = [extents(loader.batch_indices(0, step)) for step in range(loader.steps_per_epoch)]
    loader.close()
    begins, ends = (np.concatenate(places) for places in zip(*asked, strict=True))
    assert sorted(begins // index.page_size) == np.unique(index.pages).tolist()
    assert (ends - begins == index.page_size).all()


def test_memory_is_reckoned_by_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 500 pages, a shuffle of all images has nearly all in use at a time, 16 lanes some 100."""
    pages, _ = packed()
    (tmp_path / "images").touch()
    images = index(tmp_path / "images", pages * 8192, 100, page_size=8192)
    monkeypatch.setattr(storage, "memory", lambda: Memory(200 * 8192, 200 * 8192))
    lanes, full = (
        list(order[: COUNT // 16 * 16].reshape(-1, 16))
        for order in (lanes_order(pages, 16, 1, 0), epoch_order(COUNT, 1, 0))
    )
    with storage.page_cache(images, lanes, ranks=1):
        pass
    for batches, ranks in ((full, 1), (lanes, 3)):
        with (
            pytest.raises(DataError, match="cache: process: needs"),
            storage.page_cache(images, batches, ranks),
        ):
            pass


def test_pages_are_a_part_of_the_identity(dataset: Dataset, tmp_path: Path) -> None:
    assert identity(dataset, "full") == dataset.identity
    found = identity(dataset, "lanes")
    assert {**found, "pages": ""} == {**dataset.identity, "pages": ""}
    larger_pages = small_dataset(tmp_path, **SHAPE)
    assert larger_pages.digest == dataset.digest
    assert identity(larger_pages, "lanes") != found


def test_what_suits_a_file_is_advised(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(advice.advice(dataset, "full", "os"))
    assert not list(advice.advice(dataset, "lanes", "os"))
    monkeypatch.setattr(advice, "memory", lambda: Memory(1 << 18, 1 << 18))
    (larger,) = advice.advice(dataset, "full", "os")
    assert larger.endswith("data.shuffle=lanes reads it page by page, each node a part of it")
    by_class = index(dataset.path, 100 * np.arange(6000), 100, page_size=1000)
    by_class = replace(by_class, labels=np.arange(6000) // 1500)
    monkeypatch.setattr(advice, "read_beton", lambda *_: by_class)
    (unmixed,) = advice.advice(dataset, "lanes", "os")
    assert "of one class 4.0 times as often as two of the file" in unmixed
