"""Ray tasks on the head node: those that hold lanes, and the work between two jobs, in independent parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.runtime.messages import LaneSpec
from distlth.cores import num_cores

NICENESS = 10


def this_node() -> NodeAffinitySchedulingStrategy:
    """Return the strategy that places a task or an actor on the caller's node, and nowhere else."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def map_on_head(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Return `function` of each item, in order, computed by Ray tasks on this node, one per core at a time.

    The tasks have low priority: a lane may train on the same node.
    """
    cores = num_cores()
    task = _at_low_priority.options(scheduling_strategy=this_node())
    reference = ray.put(function)
    results: dict[int, Any] = {}
    running: dict[Any, int] = {}
    waiting = list(enumerate(items))[::-1]
    while waiting or running:
        while waiting and len(running) < cores:
            index, item = waiting.pop()
            running[task.remote(reference, item)] = index
        (finished, *_), _ = ray.wait(list(running), num_returns=1)
        results[running.pop(finished)] = ray.get(finished)
    return [results[index] for index in sorted(results)]


@ray.remote(num_cpus=0)
def _at_low_priority(function: Callable[[Any], Any], item: Any) -> Any:
    os.nice(max(0, NICENESS - os.nice(0)))
    return function(item)


@ray.remote(num_cpus=0, max_retries=0)
def hold_lane(spec: LaneSpec, storage: Path) -> None:
    """Run a lane until its run has no more jobs."""
    from cluster.runtime.lane import run_lane

    run_lane(spec, storage)
