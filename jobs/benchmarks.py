"""`distlth bench`: what distlth claims about speed, measured as ratios within one run."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from rich.table import Table

from distlth.report.console import show
from distlth.run.store import library_versions

Rows = Sequence[Any]


def _broadcast(quick: bool) -> Rows:
    from cluster.bench.broadcast import bench

    return bench((1, 2), ranks=1, size=12 * 2**20, reply_nodes=1) if quick else bench()


def _coordinator(quick: bool) -> Rows:
    from cluster.bench.coordinator import bench

    return bench(ranks=64, rounds=1) if quick else bench()


def _loader(quick: bool) -> Rows:
    from distlth.bench.loader import bench

    return bench(1.0, resolution=32, num_images=64) if quick else bench()


def _checkpoint(quick: bool) -> Rows:
    from distlth.bench.checkpoint import bench

    return bench(steps=3, pairs=2, images=80) if quick else bench()


def _step(quick: bool) -> Rows:
    from distlth.bench.step import bench

    return bench(resolution=32, steps=2) if quick else bench()


def _regroup(quick: bool) -> Rows:
    from distlth.bench.regroup import bench

    return bench(layers=("layer1.0.conv1", "layer1.0.conv2")) if quick else bench()


def _disk(quick: bool) -> Rows:
    from distlth.bench.disk import bench

    return bench(model="resnet20", resolution=32) if quick else bench()


BENCHES: dict[str, Callable[[bool], Rows]] = {
    "broadcast": _broadcast,
    "checkpoint": _checkpoint,
    "coordinator": _coordinator,
    "disk": _disk,
    "loader": _loader,
    "regroup": _regroup,
    "step": _step,
}


def show_bench(name: str, *, quick: bool, as_json: bool) -> None:
    """Run a benchmark and print its rows, with what they were measured on."""
    rows = BENCHES[name](quick)
    machine = {
        "cores": os.cpu_count(),
        "cpu": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **library_versions(),
    }
    if as_json:
        print(
            json.dumps({"bench": name, "machine": machine, "rows": [asdict(row) for row in rows]}, indent=1)
        )
    else:
        show(_table(name, rows))
        show("  ".join(f"{key} {value}" for key, value in machine.items() if value is not None))


def _table(title: str, rows: Rows) -> Table:
    table = Table(title=title, box=None, title_justify="left")
    for field in fields(rows[0]):
        table.add_column(field.name.replace("_", " "))
    for row in rows:
        table.add_row(*(_cell(getattr(row, field.name)) for field in fields(row)))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, tuple | list):
        return " ".join(map(_cell, value))
    return "" if value is None else str(value)
