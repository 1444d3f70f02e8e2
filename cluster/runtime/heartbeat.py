"""Hang detection: ranks send heartbeats, the coordinator finds those that hang and kills them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.runtime.session import SESSION
from distlth.process import identity, is_alive
from distlth.train.pulse import Pulse

# The reply to rank 0's heartbeat also says whether the run is to stop. The others only need to be found dead.
MAIN_SECONDS = 0.5
OTHERS_SECONDS = 5.0


@dataclass(frozen=True)
class Beat:
    """A heartbeat: the node's id, the process (its `identity`), its steps, and whether a next step is due."""

    node: str
    process: str
    steps: int
    in_steps: bool

    @classmethod
    def first(cls, born: str) -> Beat:
        """Return the first heartbeat of a process, from its `birth`."""
        node, _, process = born.partition(" ")
        return cls(node, process, 0, False)


def birth() -> str:
    """Return `NODE PID START` of this process."""
    return f"{ray.get_runtime_context().get_node_id()} {identity()}"


class Heart(threading.Thread):
    """Sends the heartbeats of a rank until closed or the coordinator is gone; sets its pulse's stop flag."""

    def __init__(self, pulse: Pulse, hang_seconds: float, is_main: bool, send: Callable[[Beat], Any]) -> None:
        super().__init__(name="heart", daemon=True)
        self._pulse, self._send = pulse, send
        self._pause = min(MAIN_SECONDS if is_main else OTHERS_SECONDS, hang_seconds / 4)
        self._born = Beat.first(birth())
        self._ended = threading.Event()

    def run(self) -> None:
        """Send heartbeats; the thread's main."""
        while not self._ended.is_set():
            beat = replace(self._born, steps=self._pulse.steps, in_steps=self._pulse.in_steps)
            try:
                self._pulse.stop = ray.get(self._send(beat)) or self._pulse.stop
            except ray.exceptions.RayError:
                return  # the main thread gets the same error
            self._ended.wait(self._pause)

    def close(self) -> None:
        """Stop sending."""
        self._ended.set()
        self.join()


@dataclass
class _Rank:
    """The last heartbeat of a rank, when it was heard, and when the rank last made progress."""

    beat: Beat
    heard: float
    moved: float


@dataclass
class HangWatch:
    """Finds the ranks that hang, from their heartbeats. Times are seconds of any one clock."""

    hang_seconds: float
    ranks: dict[tuple[int, int], _Rank] = field(default_factory=dict)

    def hear(self, lane: int, rank: int, beat: Beat, now: float) -> None:
        """Take in a heartbeat of a rank."""
        before = self.ranks.get((lane, rank))
        # Where no next step is due, time does not count.
        stands = before and beat.in_steps and (before.beat.steps, before.beat.in_steps) == (beat.steps, True)
        self.ranks[lane, rank] = _Rank(beat, now, before.moved if before and stands else now)

    def forget(self, lane: int, rank: int | None = None) -> None:
        """Expect no more heartbeats of a rank, or of a whole lane."""
        self.ranks = {
            key: state for key, state in self.ranks.items() if key[0] != lane or rank not in (None, key[1])
        }

    def hung(self, now: float) -> dict[tuple[int, int], Beat]:
        """Return the ranks that hang: (lane, rank) -> last heartbeat.

        Ranks step together: in a lane with a silent rank, that one hangs and the others wait for it.
        """
        silent = {key: r.beat for key, r in self.ranks.items() if now - r.heard > self.hang_seconds}
        lanes = {lane for lane, _ in silent}
        stuck = {key: r.beat for key, r in self.ranks.items() if now - r.moved > self.hang_seconds}
        return silent | {key: beat for key, beat in stuck.items() if key[0] not in lanes}


@ray.remote(num_cpus=0)
def _kill(process: str) -> bool:
    """Kill a process of this node; return whether it was alive."""
    if is_alive(process):
        psutil.Process(int(process.split()[0])).kill()
        return True
    return False


@ray.remote(num_cpus=0)
def _kill_of_session(pid: int) -> bool:
    """Kill a process of this node, if it is of this session of Ray; return whether it was."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.environ().get(SESSION) == os.environ[SESSION]:
            process.kill()
            return True
    return False


def kill_rank(node: str, pid: int) -> Any:
    """Kill -9 a rank that has sent no heartbeat yet; return a reference to whether it was alive."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return _kill_of_session.options(scheduling_strategy=there).remote(pid)


def kill(beat: Beat) -> Any:
    """Kill -9 the process of a heartbeat on its node; return a reference to whether it was alive."""
    there = NodeAffinitySchedulingStrategy(beat.node, soft=False)
    return _kill.options(scheduling_strategy=there).remote(beat.process)
