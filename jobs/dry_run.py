"""`distlth run --dry-run`: the plan of jobs, the prunable layers, and what each job needs."""

from __future__ import annotations

from distlth.config.schema import RunConfig
from distlth.plan import plan
from distlth.preflight import Preflight, preflight
from distlth.report.console import PlannedJob, layers_table, plan_table, show


def show_plan(config: RunConfig) -> None:
    """Print what a run would do, from its job file and data set alone; start and write nothing."""
    found = preflight(config)
    show(layers_table(found.layers))
    show(plan_table(planned_jobs(config, found)))
    network = f"{config.model.name}: {found.anatomy.num_parameters:,} parameters"
    show(
        f"{network}, {found.anatomy.macs / 1e6:,.1f} M multiply-adds an image of {config.data.resolution} px"
    )
    show(
        "memory is an estimate: parameters, gradients, momentum, mask, and the activations of a rank's batch"
    )


def planned_jobs(config: RunConfig, found: Preflight) -> list[PlannedJob]:
    """Return a line for each job of a run."""
    lines = []
    for job in plan(config):
        epochs = config.train.epochs - job.first_epoch
        steps = epochs * found.steps_per_epoch
        lines.append(PlannedJob(job.id, job.round, job.method, job.density, epochs, steps, found.memory))
    return lines
