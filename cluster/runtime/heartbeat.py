"""Finding ranks that hang: each shows signs of life, the coordinator misses those that do not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distlth.process import identity, is_alive
from distlth.train.pulse import Pulse

# Rank 0 also hears by its beats that the run is to stop. The other ranks need to be found dead only.
MAIN_SECONDS = 0.5
OTHERS_SECONDS = 5.0


@dataclass(frozen=True)
class Beat:
    """A sign of life: which process, on which node, and how far it is."""

    node: str
    process: str
    steps: int
    in_steps: bool

    @classmethod
    def first(cls, born: str) -> Beat:
        """The beat of a process that has done nothing yet, from its `birth`."""
        node, _, process = born.partition(" ")
        return cls(node, process, 0, False)


def birth() -> str:
    """`NODE PID START` of this process."""
    return f"{ray.get_runtime_context().get_node_id()} {identity()}"


class Heart(threading.Thread):
    """Sends a rank's beats until it is closed, or the coordinator is gone; takes the wish to stop back."""

    def __init__(self, pulse: Pulse, hang_seconds: float, is_main: bool, send: Callable[[Beat], Any]) -> None:
        super().__init__(name="heart", daemon=True)
        self._pulse, self._send = pulse, send
        self._pause = min(MAIN_SECONDS if is_main else OTHERS_SECONDS, hang_seconds / 4)
        self._born = Beat.first(birth())
        self._ended = threading.Event()

    def run(self) -> None:
        """Beat; the thread's main."""
        while not self._ended.is_set():
            beat = replace(self._born, steps=self._pulse.steps, in_steps=self._pulse.in_steps)
            try:
                self._pulse.stop = ray.get(self._send(beat)) or self._pulse.stop
            except ray.exceptions.RayError:
                return  # the main thread meets the same end
            self._ended.wait(self._pause)

    def close(self) -> None:
        """Beat no more."""
        self._ended.set()
        self.join()


@dataclass
class _Rank:
    beat: Beat
    heard: float
    moved: float


@dataclass
class HangWatch:
    """Which ranks hang, by what was heard of them. Times are seconds of any one clock."""

    hang_seconds: float
    ranks: dict[tuple[int, int], _Rank] = field(default_factory=dict)

    def hear(self, lane: int, rank: int, beat: Beat, now: float) -> None:
        """A rank of a lane has beaten."""
        before = self.ranks.get((lane, rank))
        # Where no step needs to follow, time does not count.
        stands = before and beat.in_steps and (before.beat.steps, before.beat.in_steps) == (beat.steps, True)
        self.ranks[lane, rank] = _Rank(beat, now, before.moved if before and stands else now)

    def forget(self, lane: int, rank: int | None = None) -> None:
        """Expect no more of a rank, or of a whole lane."""
        self.ranks = {
            key: state for key, state in self.ranks.items() if key[0] != lane or rank not in (None, key[1])
        }

    def hung(self, now: float) -> dict[tuple[int, int], Beat]:
        """The ranks that hang, by (lane, rank).

        Ranks step together: where one is silent, it is the one that holds the others up.
        """
        silent = {key: r.beat for key, r in self.ranks.items() if now - r.heard > self.hang_seconds}
        lanes = {lane for lane, _ in silent}
        stuck = {key: r.beat for key, r in self.ranks.items() if now - r.moved > self.hang_seconds}
        return silent | {key: beat for key, beat in stuck.items() if key[0] not in lanes}


@ray.remote(num_cpus=0)
def _kill(process: str) -> bool:
    if is_alive(process):
        psutil.Process(int(process.split()[0])).kill()
        return True
    return False


def kill(beat: Beat) -> Any:
    """Kill -9 the process of a beat, stopped or not, on its node; a reference to whether it lived."""
    there = NodeAffinitySchedulingStrategy(beat.node, soft=False)
    return _kill.options(scheduling_strategy=there).remote(beat.process)
