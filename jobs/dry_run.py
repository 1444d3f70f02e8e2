"""`distlth run --dry-run`: the plan of jobs, the prunable layers, and what each job needs."""

from __future__ import annotations

from distlth.data.dataset import Dataset
from distlth.models import Anatomy, anatomy, build, prunable
from distlth.report.console import PlannedJob, layers_table, plan_table, show
from distlth.run.config import JobConfig
from distlth.run.plan import plan, planned_density

# float32 copies of every parameter: the weight, its gradient, its momentum, and its mask as a factor.
PARAMETER_COPIES = 4


def show_plan(config: JobConfig) -> None:
    """Print what a run would do, from its job file and data set alone: nothing is started or written."""
    dataset = Dataset.load(config.data.path)
    model = build(config.model.name, dataset.num_classes, seed=config.seed, stem=config.model.stem)
    body = anatomy(model, config.data.resolution)
    show(layers_table(prunable(body, config.prune.scope)))
    show(plan_table(planned_jobs(config, body, dataset.split("train").count)))
    show(
        f"{config.model.name}: {body.num_parameters:,} parameters, {body.macs / 1e6:,.1f} M multiply-adds an "
        f"image of {config.data.resolution} px; memory is an estimate: parameters, gradients, momentum, mask "
        "and the activations of a rank's batch"
    )


def planned_jobs(config: JobConfig, body: Anatomy, num_images: int) -> list[PlannedJob]:
    """A line for each job of a run on `num_images` training images."""
    steps_per_epoch = num_images // config.train.batch_size
    memory = memory_estimate(config, body)
    lines = []
    for job in plan(config):
        epochs = config.train.epochs - job.first_epoch
        density = planned_density(job, config.prune.rate)
        lines.append(
            PlannedJob(job.id, job.round, job.method, density, epochs, epochs * steps_per_epoch, memory)
        )
    return lines


def memory_estimate(config: JobConfig, body: Anatomy) -> int:
    """Bytes that training needs on a rank: parameters with their companions, and a batch's activations."""
    rank_batch = config.train.batch_size // config.cluster.workers
    activations = body.activation_bytes * rank_batch
    if config.train.amp != "off":
        activations //= 2
    return 4 * PARAMETER_COPIES * body.num_parameters + activations
