"""The measured time of a run's tickets: the fastest way found to run each, beside the dense network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.timings import NetworkTime, Setting, Timing, load_timings

DENSE, EAGER = "dense", "eager"


@dataclass(frozen=True)
class TicketTime:
    """A ticket in the form and runtime in which it was fastest, in one setting.

    `dense_eager` and `dense_fastest` are the milliseconds of the dense network, in eager PyTorch and in
    `fastest_runtime`, the one in which it is fastest. `saved_of_eager` and `saved_of_fastest` are the shares
    of these that the ticket saves, negative where it is slower; `dense_saved_of_eager` is what the dense
    network saves by the faster runtime alone. `macs_saved` is the limit: the multiply-accumulates that the
    ticket's best form leaves out.
    """

    job: str
    setting: Setting
    network: str
    runtime: str
    milliseconds: float
    quartiles: tuple[float, float]
    images_per_second: float
    dense_eager: float | None
    dense_fastest: float
    fastest_runtime: str
    saved_of_eager: float | None
    saved_of_fastest: float
    dense_saved_of_eager: float | None
    macs_saved: float
    command: str
    versions: Mapping[str, str]


def read_times(run: RunPaths, results: Mapping[str, JobResult]) -> tuple[TicketTime, ...]:
    """Return what was measured of the tickets in `results`, in their order.

    A ticket whose mask is another one since counts as not measured.

    Raises:
        RunError: a file is damaged.
    """
    found = [
        timing
        for timing in load_timings(run)
        if timing.ticket in results and results[timing.ticket].mask_digest == timing.mask_digest
    ]
    by_ticket = sorted(found, key=lambda timing: list(results).index(timing.ticket))
    times = (_fastest(group) for group in _sessions(by_ticket))
    return tuple(time for time in times if time is not None)


def _sessions(timings: Iterable[Timing]) -> list[list[Timing]]:
    """Return the timings of each ticket and setting that were made together, the latest ones alone."""
    groups: dict[tuple[str, Setting], list[Timing]] = {}
    for timing in timings:
        groups.setdefault((timing.ticket, timing.setting), []).append(timing)
    newest = {key: max(timing.measured for timing in group) for key, group in groups.items()}
    return [[timing for timing in group if timing.measured == newest[key]] for key, group in groups.items()]


def _fastest(timings: Sequence[Timing]) -> TicketTime | None:
    """Return the fastest form of a ticket; None where no dense network was timed with it."""
    forms = [(timing, network) for timing in timings for network in timing.networks]
    dense = {timing.runtime: network for timing, network in forms if network.network == DENSE}
    own = [(timing, network) for timing, network in forms if network.network != DENSE]
    fastest = timings[0].fastest
    if fastest not in dense or not own:
        return None
    timing, network = max(own, key=lambda form: form[1].saved_of_fastest or 0.0)
    return TicketTime(
        job=timing.ticket,
        setting=timing.setting,
        network=network.network,
        runtime=timing.runtime,
        milliseconds=network.milliseconds,
        quartiles=network.quartiles,
        images_per_second=network.images_per_second,
        dense_eager=_milliseconds(dense.get(EAGER)),
        dense_fastest=dense[fastest].milliseconds,
        fastest_runtime=fastest,
        saved_of_eager=network.saved_of_eager,
        saved_of_fastest=network.saved_of_fastest or 0.0,
        dense_saved_of_eager=dense[fastest].saved_of_eager,
        macs_saved=max(form.macs_saved for _, form in own),
        command=timing.command,
        versions={name: version for each in timings for name, version in each.versions.items()},
    )


def _milliseconds(network: NetworkTime | None) -> float | None:
    return None if network is None else network.milliseconds
