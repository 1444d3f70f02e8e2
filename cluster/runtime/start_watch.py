"""The start of lanes: ranks that have not all met in time, found from what the coordinator hears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Started(NamedTuple):
    """A rank that has started: its node's id in Ray, its process number there, and its actor's id."""

    node: str
    pid: int
    actor: str


@dataclass
class StartWatch:
    """The attempts of lanes that have begun and whose ranks have not met. Times are of any one clock.

    An attempt begins with the run, or when the one before has died. Its ranks have `seconds` to start, and as
    long again to meet.
    """

    seconds: float
    _began: dict[int, float] = field(default_factory=dict)
    _ranks: dict[int, tuple[Started, ...]] = field(default_factory=dict)
    _given_up: set[int] = field(default_factory=set)

    def begin(self, lane: int, now: float) -> None:
        """Expect the ranks of a lane to start and to meet."""
        self._began[lane] = now
        self._ranks.pop(lane, None)

    def started(self, lane: int, ranks: Sequence[Started], now: float) -> None:
        """Hear which ranks a lane has started, in order."""
        self._given_up.discard(lane)
        self._began[lane] = now
        self._ranks[lane] = tuple(ranks)

    def met(self, lane: int) -> None:
        """Expect nothing more of a lane: its ranks have met."""
        self._began.pop(lane, None)

    def ranks(self, lane: int) -> tuple[Started, ...]:
        """Return the ranks that a lane has started last."""
        return self._ranks.get(lane, ())

    def overdue(self, now: float) -> list[int]:
        """Return the lanes whose ranks have not met in time."""
        return sorted(lane for lane, began in self._began.items() if now - began > self.seconds)

    def give_up(self, lane: int) -> None:
        """Count an attempt as dead: the deaths of its ranks, which follow, are no others."""
        self._given_up.add(lane)

    def is_given_up(self, lane: int) -> bool:
        """Return whether the attempt that a lane has started last was given up."""
        return lane in self._given_up
