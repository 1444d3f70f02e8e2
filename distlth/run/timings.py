"""Measured inference of a run's tickets: one file a ticket, machine, device, threads, batch and runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from distlth.errors import RunError
from distlth.files import entries, read_json, write_json
from distlth.run.paths import RunPaths


@dataclass(frozen=True)
class Setting:
    """What two times must share to be compared.

    `host` is the machine's name, `chip` its processor or GPU, `device` is `cpu` or `cuda`, `threads` are the
    CPU's, `batch` images are computed at a time, and `dense_runtimes` are those in which the dense network
    took turns with the ticket.
    """

    host: str
    chip: str
    device: str
    threads: int
    batch: int
    dense_runtimes: tuple[str, ...]


@dataclass(frozen=True)
class NetworkTime:
    """Milliseconds of a batch (median, and the quartiles) of one form of a ticket, or the dense network.

    `saved_of_own`, `saved_of_eager` and `saved_of_fastest` are shares of the dense network's time: in the
    same runtime, in eager torch, and in the runtime that is fastest with it; medians over rounds.
    `macs_saved`, of its multiply-accumulates, is the limit of what can be saved. `peak_memory` are the bytes
    that the process took for the network and its first batch.
    """

    network: str
    milliseconds: float
    quartiles: tuple[float, float]
    images_per_second: float
    peak_memory: int | None
    parameters: int
    macs: int
    file_bytes: int
    saved_of_own: float | None
    saved_of_eager: float | None
    saved_of_fastest: float | None
    macs_saved: float


@dataclass(frozen=True)
class Timing:
    """All forms of a ticket in one runtime, and the dense network beside them in the same process.

    `mask_digest` is that of the ticket's mask, `fastest` the runtime in which the dense network was fastest.
    Each form has run `warm_ups` times before and `rounds` times on the clock. `measured` is the time at which
    the ticket was measured, in seconds since the epoch: the same in all its runtimes.
    """

    ticket: str
    mask_digest: str
    setting: Setting
    runtime: str
    dtype: str
    resolution: int
    rounds: int
    warm_ups: int
    cores: tuple[int, ...]
    fastest: str | None
    networks: tuple[NetworkTime, ...]
    versions: Mapping[str, str]
    command: str
    measured: float

    def save(self, run: RunPaths) -> None:
        """Write the record, in place of an earlier one of the same kind."""
        setting = self.setting
        machine = re.sub(r"[^A-Za-z0-9]+", "-", f"{setting.host} {setting.chip}").strip("-")
        how = f"{setting.device}-{setting.threads}threads-batch{setting.batch}-{self.runtime}"
        write_json(run.timing(self.ticket, f"{how}@{machine}"), asdict(self))


def load_timings(run: RunPaths) -> tuple[Timing, ...]:
    """Return all records of a run.

    Raises:
        RunError: a file is damaged.
    """
    folders = [path for path in entries(run.timings) if path.is_dir()]
    files = [file for folder in folders for file in entries(folder) if file.suffix == ".json"]
    found = []
    for file in files:
        try:
            found.append(_parsed(read_json(file)))
        except (KeyError, TypeError) as error:
            raise RunError(f"{file}: damaged ({error!r}); measure the ticket again") from None
    return tuple(found)


def _parsed(document: dict[str, Any]) -> Timing:
    setting, networks = document.pop("setting"), document.pop("networks")
    runtimes = tuple(setting.pop("dense_runtimes"))
    times = tuple(
        NetworkTime(**{**network, "quartiles": tuple(network["quartiles"])}) for network in networks
    )
    cores = tuple(document.pop("cores"))
    return Timing(
        **document, setting=Setting(**setting, dense_runtimes=runtimes), networks=times, cores=cores
    )
