"""What a run's log says of the time between two jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.bench.turnaround import turns


def event(time: float, kind: str, job: str) -> Mapping[str, Any]:
    return {"time": time, "event": kind, "job": job, "step": 3}


def test_only_what_the_lane_waits_for_counts_of_a_ticket() -> None:
    log = [
        *(event(0.0, "mask", "00"), event(1.0, "job-start", "00"), event(2.0, "first-step", "00")),
        *(event(9.0, "last-step", "00"), event(10.0, "job-done", "00"), event(12.0, "mask", "01")),
        *(event(13.0, "job-start", "01"), event(14.0, "first-step", "01")),
        *(event(15.0, "mask", "01/refill"), event(19.0, "last-step", "01"), event(20.0, "job-done", "01")),
        *(event(21.0, "job-start", "01/refill"), event(23.0, "first-step", "01/refill")),
        event(27.0, "last-step", "01/refill"),
    ]
    first, second = turns(log)
    assert (first.job, second.job) == ("01", "01/refill")
    assert (first.last_step, first.done, first.made, first.loaded, first.first_step) == (9, 10, 12, 13, 14)
    assert (second.last_step, second.done, second.made, second.loaded) == (19, 20, 20, 21)
    assert (first.step, second.step) == (2.5, 2.0)
