"""`distlth run --dry-run`: the plan of jobs, the prunable layers, and what each job needs."""

from __future__ import annotations

from distlth.config.schema import RunConfig
from distlth.facts.planned import planned_jobs
from distlth.preflight import preflight
from distlth.report.console import layers_table, plan_table, show


def show_plan(config: RunConfig) -> None:
    """Print what a run would do, from its job file and data set alone; start and write nothing."""
    found = preflight(config)
    show(layers_table(found.layers))
    show(plan_table(planned_jobs(config, found.steps_per_epoch, found.memory)))
    network = f"{config.model.name}: {found.anatomy.num_parameters:,} parameters"
    show(f"{network}, {found.anatomy.macs / 1e6:,.1f} M multiply-adds an image of {config.data.eval_side} px")
    if found.gates:
        show(
            f"removed channels of {len(found.gates)} gates (such as {found.gates[0]}) become constant factors"
        )
    if unfollowed := found.anatomy.graph.unfollowed:
        show(f"alive density and alive MACs are not counted: {' and '.join(unfollowed)} is not followed")
    for line in found.advice:
        show(line)
    show(
        "memory is an estimate: parameters, gradients, momentum, mask, and the activations of a rank's batch"
    )
