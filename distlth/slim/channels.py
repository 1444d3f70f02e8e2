"""What is known of a tensor's channels: which of them live and die together, and which are constant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

# The value of a channel that is no constant.
ALIVE = float("nan")


@dataclass(frozen=True, eq=False)
class Channels:
    """A tensor with channels along `axis`; `slots` has the slot of each, `values` its value, NaN if alive."""

    axis: int
    slots: Tensor  # int64
    values: Tensor  # float64

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def alive(self) -> Tensor:
        """Which channels are no constant (bool)."""
        return self.values.isnan()


@dataclass(frozen=True, eq=False)
class Moving:
    """A tensor on its way through reshapes: `entries` numbers those of `base`, which has these `channels`."""

    base: fx.Node
    channels: Channels
    entries: Tensor


Value = Channels | Moving | None  # None: nothing is known, all of it is kept


class Slots:
    """Slots of channels. Channels with one slot are kept or dropped together.

    A layer makes a slot for each of its channels; elementwise operators join those of their operands.
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._needed: set[int] = set()
        self._reasons: dict[int, str] = {}

    def new(self, count: int) -> Tensor:
        """Return `count` new slots."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def join(self, ours: Tensor, theirs: Tensor) -> None:
        """Make two lists of slots the same, pair by pair."""
        for one, other in zip(ours.tolist(), theirs.tolist(), strict=True):
            self._parents[self._root(one)] = self._root(other)

    def need(self, slots: Tensor, reason: str | None = None) -> bool:
        """Keep these slots, and note why where that is no use of theirs; return whether any was not kept."""
        roots = {self._root(slot) for slot in slots.tolist()}
        if reason:
            for root in roots:
                self._reasons.setdefault(root, reason)
        fresh = {root for root in roots if root not in self._needed}
        self._needed |= fresh
        return bool(fresh)

    def settle(self) -> None:
        """Call before the first `need`: slots are joined no more."""
        self._parents = [self._root(slot) for slot in range(len(self._parents))]

    def kept(self, slots: Tensor) -> Tensor:
        """Return which of these slots are kept (bool)."""
        return torch.tensor([self._root(slot) in self._needed for slot in slots.tolist()], dtype=torch.bool)

    def reasons(self, slots: Tensor) -> Iterable[str]:
        """Return why some of these slots are kept although nobody uses them, each reason once."""
        found = (self._reasons.get(self._root(slot)) for slot in slots.tolist())
        return dict.fromkeys(reason for reason in found if reason)

    def _root(self, slot: int) -> int:
        while self._parents[slot] != slot:
            self._parents[slot] = self._parents[self._parents[slot]]
            slot = self._parents[slot]
        return slot
