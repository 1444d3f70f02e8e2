"""The channels of a program's tensors as wires of the network's graph, and which of them are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from distlth.models.graph import ZERO


@dataclass(frozen=True, eq=False)
class Channels:
    """A tensor whose entries are of one channel at each index of `axis`: the wire of each (int64)."""

    axis: int
    wires: Tensor

    def __len__(self) -> int:
        return len(self.wires)


@dataclass(frozen=True, eq=False)
class Moving:
    """A tensor on its way through reshapes: `entries` numbers those of `base`."""

    base: fx.Node
    entries: Tensor


class Slots:
    """Which channels are kept. Wires at one place (int64, by wire) are kept or dropped together.

    What is no channel that could be dropped, LIVE and ZERO, is always kept.
    """

    def __init__(self, places: Tensor) -> None:
        self._places = places
        self._needed = torch.zeros(len(places), dtype=torch.bool)
        self._needed[: ZERO + 1] = True
        self._reasons: dict[int, str] = {}

    def need(self, wires: Tensor, reason: str | None = None) -> bool:
        """Keep these wires, and note why where that is no use of theirs; return whether any was not kept."""
        places = self._places[wires].unique()
        if reason:
            for place in places.tolist():
                self._reasons.setdefault(place, reason)
        is_fresh = not bool(self._needed[places].all())
        self._needed[places] = True
        return is_fresh

    def kept(self, wires: Tensor) -> Tensor:
        """Return which of these wires are kept (bool)."""
        return self._needed[self._places[wires]]

    def reasons(self, wires: Tensor) -> Iterable[str]:
        """Return why some of these wires are kept although nobody uses them, each reason once."""
        found = (self._reasons.get(place) for place in self._places[wires].tolist())
        return dict.fromkeys(reason for reason in found if reason)
