"""The tables of a run before it starts: its jobs, and the layers that it prunes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from distlth.facts.planned import PlannedJob
from distlth.report.console.layout import new_table, set_footer
from distlth.report.text import count, memory, percent

if TYPE_CHECKING:  # torch, which a login node should not have to load
    from distlth.models.anatomy import ConvLayer


def plan_table(jobs: Sequence[PlannedJob]) -> Table:
    """Draw a line for each job, with the steps and the memory that it needs, and the totals."""
    table = new_table(
        ("job", "method"), ("density", "epochs", "steps", "memory a rank"), title="jobs", footer=True
    )
    for job in jobs:
        table.add_row(
            job.job,
            job.method,
            percent(job.density),
            count(job.epochs),
            count(job.steps),
            memory(job.memory_bytes),
        )
    epochs, steps = sum(job.epochs for job in jobs), sum(job.steps for job in jobs)
    set_footer(table, (f"{len(jobs)} jobs", "", "", epochs, steps, ""))
    return table


def layers_table(layers: Sequence[ConvLayer]) -> Table:
    """Draw a line for each prunable layer: its shape, its number of weights, and the work of one image."""
    table = new_table(
        ("layer",), ("weight", "groups", "weights", "M multiply-adds"), title="prunable layers", footer=True
    )
    for layer in layers:
        table.add_row(
            layer.name,
            " × ".join(map(str, layer.weight_shape)),
            str(layer.groups),
            count(layer.num_weights),
            f"{layer.macs / 1e6:,.1f}",
        )
    weights, macs = sum(layer.num_weights for layer in layers), sum(layer.macs for layer in layers)
    set_footer(table, (f"{len(layers)} layers", "", "", weights, f"{macs / 1e6:,.1f}"))
    return table
