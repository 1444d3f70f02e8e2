"""`distlth plan`: the jobs of a run in their order, what is done, and the hours that the rest takes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.arguments import Commands, add_job_file

if TYPE_CHECKING:
    from distlth.config.schema import RunConfig


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plan",
        help="the jobs of a run, what is done, and what the rest costs",
        description="Show the jobs of a job file in their order, which of them its run has done, and the "
        "rank-hours of each: by the jobs that are done, or by steps that --measure times here.",
    )
    add_job_file(parser)
    parser.add_argument(
        "--measure", action="store_true", help="time training steps on this machine, with a rank's batch"
    )
    parser.set_defaults(command=_plan)


def _plan(options: argparse.Namespace) -> int:
    from distlth.config.read import load_config
    from distlth.facts.forecast import forecast
    from distlth.plan import plan
    from distlth.preflight import preflight
    from distlth.report.console import forecast_table, show
    from distlth.report.text import hours
    from distlth.run.paths import RunPaths
    from distlth.run.results import load_results

    config = load_config(options.job, options.overrides)
    found = preflight(config)
    results = load_results(RunPaths(config.runs.absolute() / config.name), plan(config))
    measured = _measured(config) if options.measure else None
    shown = forecast(config, found.steps_per_epoch, results, measured)
    show(forecast_table(shown))
    for line in found.advice:
        show(line)
    if shown.step_seconds is None:
        show("no job is done yet, so no step is timed; --measure times steps on this machine")
        return 0
    by = "as measured here" if measured else "by the jobs that are done"
    step = f"{1e3 * shown.step_seconds:,.1f} ms a step {by}"
    show(f"{hours(shown.hours_left)} rank-hours left on {config.cluster.workers} ranks a lane; {step}")
    return 0


def _measured(config: RunConfig) -> float:
    """Return the seconds of a training step with a rank's part of the batch, on this machine's device."""
    import torch

    from distlth.bench.step import MASK, Shape, bench

    on_gpu = torch.cuda.is_available() and config.cluster.device != "cpu"
    device = torch.device("cuda" if on_gpu else "cpu")
    config.check_device(device.type)
    batch = -(-config.train.batch_size // config.cluster.workers)
    model = config.model
    resolution, amp = config.data.resolution, config.train.amp
    shape = Shape(model.name, resolution, batch, amp, device, model.stem, model.blurpool)
    if not on_gpu:
        torch.set_num_threads(config.cluster.cpus_per_worker)
    return bench(shape=shape, rounds=3, steps_per_round=2, kinds=(MASK,))[0].milliseconds / 1e3
