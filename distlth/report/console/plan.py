"""The tables of a run before it starts: its jobs, and the layers that it prunes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from distlth.facts.forecast import Forecast
from distlth.facts.planned import PlannedJob
from distlth.report.console.layout import new_table, set_footer
from distlth.report.text import count, hours, memory, percent

if TYPE_CHECKING:  # torch, which a login node should not have to load
    from distlth.models.anatomy import WeightLayer


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


def forecast_table(forecast: Forecast) -> Table:
    """Draw a line for each job, with what it takes or took, a rule between seeds, and the totals."""
    table = new_table(
        ("job", "method"), ("density", "epochs", "steps", "state", "rank-hours"), title="jobs", footer=True
    )
    for previous, each in zip([None, *forecast.jobs], forecast.jobs, strict=False):
        if previous is not None and previous.job.seed != each.job.seed:
            table.add_section()
        state = "done" if each.done else ""
        table.add_row(
            each.job.id,
            each.job.method,
            percent(each.job.density),
            count(each.epochs),
            count(each.steps),
            state,
            hours(each.hours),
        )
    epochs, steps = sum(each.epochs for each in forecast.jobs), sum(each.steps for each in forecast.jobs)
    done = sum(each.done for each in forecast.jobs)
    total = (f"{len(forecast.jobs)} jobs", "", "", epochs, steps, f"{done} done", hours(forecast.hours))
    set_footer(table, total)
    return table


def layers_table(layers: Sequence[WeightLayer]) -> Table:
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


def recipes_table(heads: Mapping[str, Mapping[str, str]]) -> Table:
    """Draw a line for each recipe (name -> what its head says): what it reproduces and what it costs."""
    table = new_table(("recipe", "reproduces", "costs"), title="recipes")
    for column in table.columns[1:]:
        column.no_wrap, column.overflow = False, "fold"
    for name, head in heads.items():
        table.add_row(name, head.get("reproduces", ""), head.get("costs", ""))
        table.add_section()
    return table
