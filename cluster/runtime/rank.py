"""A rank of a lane: trains the jobs that the coordinator hands out, together with the lane's other ranks."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

import ray
import ray.train.torch
import torch

from cluster.runtime.broadcast import fetch
from cluster.runtime.heartbeat import Beat, Heart, birth
from cluster.runtime.messages import Assignment, LaneSpec
from cluster.runtime.placement import smallest
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.data.identity import identity
from distlth.errors import DivergedError, UserError
from distlth.files import parse_tensors
from distlth.models import Anatomy
from distlth.plan import measurements, plan
from distlth.preflight import check_memory
from distlth.prune.mask import Mask
from distlth.run.curves import JobBoard
from distlth.run.store import check_data
from distlth.ticket import Ticket
from distlth.train.pulse import Pulse, StoppedEarly
from distlth.train.trainer import train_job
from distlth.train.warm import WarmRank
from distlth.train.world import World


def work(spec: LaneSpec) -> None:
    """Run one rank: ask for a job, train it, ask again."""
    torch.set_num_threads(spec.config.cluster.cpus_per_worker)
    world = World.current(ray.train.torch.get_device())
    coordinator = ray.get_actor(spec.coordinator)
    attempt = meet(spec, world, coordinator)
    pulse = Pulse()
    heart = Heart(
        pulse,
        spec.config.cluster.hang_seconds,
        world.is_main,
        lambda beat: coordinator.beat.remote(spec.index, attempt, world.rank, beat),
    )
    heart.start()
    try:
        dataset = Dataset.load(spec.config.data.path)
        check_data(spec.run, identity(dataset, spec.config.data.shuffle))
        rank = WarmRank(spec.config, dataset, world)
        executable = rank.executable(plan(spec.config)[0])  # while the coordinator makes the first ticket
        _check_memory(spec.config, executable.anatomy, world.device)
        turn = 0
        while assignment := _next_job(coordinator, spec, attempt, turn):
            _train(rank, assignment, spec, coordinator, pulse)
            turn += 1
        rank.close()
        # Before the process ends, so that its silence is not taken for a hang.
        heart.close()
        ray.get(coordinator.rank_done.remote(spec.index, attempt, world.rank))
    except StoppedEarly:
        heart.close()
        ray.get(coordinator.rank_done.remote(spec.index, attempt, world.rank))
    except UserError as error:
        ray.get(coordinator.fail.remote(str(error)))
        raise


def _check_memory(config: RunConfig, body: Anatomy, device: torch.device) -> None:
    """Raise ConfigError where a rank's batch exceeds its GPU, now or on the fewest nodes that may be left.

    Compiled steps may need less than the estimate, and have been rehearsed with the whole batch.
    """
    if device.type == "cuda" and not config.train.compile:
        available = torch.cuda.get_device_properties(device).total_memory
        for possible in (config, smallest(config)):
            check_memory(possible, body, available)


def meet(spec: LaneSpec, world: World, coordinator: Any) -> str:
    """Begin an attempt of the lane with all its ranks; return its name."""
    attempt = world.share_text(uuid.uuid4().hex)
    ranks = [Beat.first(text) for text in world.texts(birth())]
    if world.is_main:
        ray.get(coordinator.lane_started.remote(spec.index, attempt, ranks))
    world.barrier()
    return attempt


def _next_job(coordinator: Any, spec: LaneSpec, attempt: str, turn: int) -> Assignment | None:
    answer: Assignment | None = ray.get(coordinator.next_job.remote(spec.index, attempt, turn))
    return answer


def _train(rank: WarmRank, assignment: Assignment, spec: LaneSpec, coordinator: Any, pulse: Pulse) -> None:
    job = assignment.job
    ticket = fetch_ticket(assignment)

    def note(event: str, **details: Any) -> None:
        coordinator.note.remote(event, lane=spec.index, **details)

    needed = measurements(plan(spec.config), job)
    curves = partial(JobBoard, spec.run, job.id)
    try:
        result = train_job(rank, job, ticket, spec.run, note, curves, needed=needed, pulse=pulse)
        told = coordinator.job_done.remote(result) if rank.world.is_main else None
    except DivergedError as error:  # on every rank, at the same step
        told = coordinator.job_diverged.remote(job.id, str(error)) if rank.world.is_main else None
    if told is not None:
        ray.get(told)


def fetch_ticket(assignment: Assignment) -> Ticket:
    """Return the ticket of an assignment, from the object store.

    Raises:
        RuntimeError: the mask that arrived has another digest.
    """
    mask = Mask.from_tensors(parse_tensors(fetch(assignment.mask)))
    if mask.digest() != assignment.mask_digest:
        raise RuntimeError(
            f"job {assignment.job.id}: mask {mask.digest()} arrived, not {assignment.mask_digest}"
        )
    weights = parse_tensors(fetch(assignment.weights))
    return Ticket(mask, weights, remove_channels=assignment.job.removes_channels)
