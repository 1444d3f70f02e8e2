"""Average the gradients of kept weights alone over the ranks: what a mask drops need not travel.

All ranks have the same masks, so the kept entries of a bucket of gradients lie at the same places on each.
They are copied together, averaged, and put back among zeros.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from distlth.train.world import World

# Whole channels lie in few pieces, which are copied as they are. Beyond this, an index costs less.
MOST_PIECES = 256
# DDP's own size of a bucket; and how often each way is tried.
BUCKET_ENTRIES = 25 * 2**20 // 4
TRIALS = 3


@dataclass(frozen=True)
class Places:
    """Where the kept entries of a flat tensor lie: in `pieces` (start, end), or by `index` (int64).

    On a GPU `positions` says for each entry which of the kept ones it is (int32), -1 for none: there a
    deterministic scatter sorts its index in every call, a gather does not (0.57 and 0.08 ms on an H200 for a
    bucket of which a quarter is kept).
    """

    pieces: tuple[tuple[int, int], ...]
    index: Tensor | None
    positions: Tensor | None = None

    @classmethod
    def of(cls, kept: Tensor) -> Places:
        """Return where a flat bool tensor is true."""
        edges = torch.diff(kept.to(torch.int8), prepend=kept.new_zeros(1), append=kept.new_zeros(1))
        starts, ends = (edges == 1).nonzero().flatten(), (edges == -1).nonzero().flatten()
        if len(starts) > MOST_PIECES:
            return cls((), kept.nonzero().flatten(), positions(kept) if kept.is_cuda else None)
        return cls(tuple(zip(starts.tolist(), ends.tolist(), strict=True)), None)

    def take(self, entries: Tensor) -> Tensor:
        """Return the kept entries, together."""
        if self.index is not None:
            return entries.index_select(0, self.index)
        return torch.cat([entries[start:end] for start, end in self.pieces] or [entries[:0]])

    def put(self, entries: Tensor, values: Tensor) -> Tensor:
        """Write the kept entries where they belong, and zeros everywhere else; return `entries`."""
        if self.positions is not None:
            entries.copy_(values.index_select(0, self.positions.clamp(min=0)))
            return entries.masked_fill_(self.positions < 0, 0)
        entries.zero_()
        if self.index is not None:
            entries.scatter_(0, self.index, values.to(entries.dtype))
        elif self.pieces:
            parts = values.split([end - start for start, end in self.pieces])
            torch._foreach_copy_([entries[start:end] for start, end in self.pieces], list(parts))
        return entries


def positions(kept: Tensor) -> Tensor:
    """Return which of the kept ones each entry of a flat bool tensor is: int32, -1 for those that are not."""
    return torch.where(kept, kept.cumsum(0) - 1, -1).int()


class SparseAllReduce:
    """Averages a network's gradients over the ranks. DDP calls it for each bucket of them.

    Registered once; `use` says which entries the job keeps. Without masks, all travel. Sums are of `dtype`.
    """

    def __init__(self, replicas: DistributedDataParallel, world: World, dtype: torch.dtype) -> None:
        self._world, self.dtype = world, dtype
        self._kept: Mapping[nn.Parameter, Tensor] = {}
        self._places: dict[tuple[int, ...], Places | None] = {}
        # DDP refuses annotations that are strings, as all are in this file.
        replicas.register_comm_hook(self, lambda exchange, bucket: exchange.average(bucket))

    def use(self, masks: Mapping[nn.Parameter, Tensor]) -> None:
        """Keep these entries from now on: bool, in each parameter's shape; all of the other parameters'."""
        self._kept = {parameter: kept.to(parameter.device) for parameter, kept in masks.items()}
        self._places = {}

    def average(self, bucket: GradBucket) -> Future[Tensor]:
        """Start to average a bucket; its future has the bucket's tensor."""
        entries, places = bucket.buffer(), self._places_in(bucket)
        sent = entries if places is None else places.take(entries)
        future = _sum(sent.mul_(1 / self._world.size).to(self.dtype))

        def put_back(done: Future[Tensor]) -> Tensor:
            return entries.copy_(done.value()) if places is None else places.put(entries, done.value())

        return future.then(put_back)

    def _places_in(self, bucket: GradBucket) -> Places | None:
        """Return where a bucket's kept entries lie, None where all are kept; found at its first step.

        DDP lays buckets out anew after its first backward pass: what a bucket has in it is what names it.
        """
        key = tuple(map(id, bucket.parameters()))
        if key not in self._places:
            kept = self._kept_of(bucket)
            self._places[key] = None if bool(kept.all()) else Places.of(kept)
        return self._places[key]

    def _kept_of(self, bucket: GradBucket) -> Tensor:
        """Return which entries of a bucket are kept: flat bool, each parameter in its own memory format."""
        entries = bucket.buffer()
        kept = torch.ones(entries.shape, dtype=torch.bool, device=entries.device)
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            if (mask := self._kept.get(cast(nn.Parameter, parameter))) is not None:
                start = gradient.storage_offset() - entries.storage_offset()
                kept.as_strided(parameter.shape, parameter.stride(), start).copy_(mask)
        return kept


def _sum(entries: Tensor) -> Future[Tensor]:
    work = dist.all_reduce(entries, async_op=True)
    assert work is not None
    return work.get_future().then(_value)


def _value(done: Future[Tensor] | Future[list[Tensor]]) -> Tensor:
    value = done.value()
    return value[0] if isinstance(value, list) else value


@dataclass(frozen=True)
class Trial:
    """Seconds that a step's gradients take: all of them, or the kept ones; medians, on the slowest rank."""

    all: float
    kept: float
    share: float

    @property
    def pays(self) -> bool:
        """Whether to send the kept ones alone."""
        return self.kept < self.all


def compare(
    model: nn.Module, masks: Mapping[nn.Parameter, Tensor], world: World, dtype: torch.dtype
) -> Trial:
    """Send zeros in the size of a network's gradients as `dtype`, both ways in turn. Collective."""
    entries = (masks.get(each, torch.ones_like(each, dtype=torch.bool)) for each in model.parameters())
    kept = torch.cat([each.flatten() for each in entries])
    parts = kept.to(world.device).split(BUCKET_ENTRIES)
    buckets = [torch.zeros(len(part), device=world.device) for part in parts]
    places = [Places.of(part) for part in parts]

    def send_all() -> None:
        for bucket in buckets:
            bucket.copy_(_sum(bucket.to(dtype)).wait())

    def send_kept() -> None:
        for bucket, where in zip(buckets, places, strict=True):
            where.put(bucket, _sum(where.take(bucket).to(dtype)).wait())

    ways = send_all, send_kept
    seconds = torch.tensor([[_seconds(way, world) for way in ways] for _ in range(TRIALS + 1)])
    medians = seconds[1:].median(0).values  # the first trial opens connections
    slowest = world.gather(medians.to(world.device)).max(0).values.tolist()
    return Trial(slowest[0], slowest[1], float(kept.float().mean()))


def _seconds(send: Callable[[], None], world: World) -> float:
    world.barrier()
    started = time.perf_counter()
    send()
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return time.perf_counter() - started
