"""A lane: one standing DDP worker group that pulls jobs from the coordinator, one after the other."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.callback import UserCallback

from cluster.broadcast import fetch
from cluster.coordinator import Assignment
from cluster.heartbeat import Beat, Heart, birth
from cluster.session import NAMESPACE
from distlth.data.dataset import Dataset
from distlth.errors import UserError
from distlth.prune.mask import Mask
from distlth.run.config import JobConfig
from distlth.run.files import parse_tensors
from distlth.run.paths import RunPaths
from distlth.run.plan import Job
from distlth.run.store import check_data
from distlth.train.loop import train_job
from distlth.train.masking import Ticket
from distlth.train.pulse import Pulse, StoppedEarly
from distlth.train.trainer import Trainer
from distlth.train.world import World

# Restarts are counted by the coordinator, which sees progress; this only bounds a start-up that never works.
MAX_RESTARTS = 100

# Ranks wait for rank 0 while it waits for a full disk. Hangs are found by the heartbeat, long before.
COLLECTIVE_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class LaneSpec:
    """What a lane's ranks are started with."""

    index: int
    coordinator: str
    config: JobConfig
    run: RunPaths
    device: str


class _ReportDeaths(UserCallback):
    """Tells the coordinator why ranks died. Ray Train calls it in its controller."""

    def __init__(self, spec: LaneSpec) -> None:
        self.spec = spec

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        ranks = ", ".join(
            f"rank {rank}: {_first_line(error)}" for rank, error in sorted(worker_exceptions.items())
        )
        coordinator = ray.get_actor(self.spec.coordinator, NAMESPACE)
        coordinator.lane_failed.remote(self.spec.index, ranks)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)


def run_lane(spec: LaneSpec, storage: Path) -> None:
    """Hold a lane until the coordinator has no more jobs. Blocks; Ray Train restarts ranks that die."""
    cluster = spec.config.cluster
    gpu = spec.device == "cuda"
    resources = {"CPU": float(cluster.cpus_per_worker), **({"GPU": 1.0} if gpu else {})}
    TorchTrainer(
        work,
        train_loop_config={"spec": spec},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers, use_gpu=gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"lane-{spec.index}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            callbacks=[_ReportDeaths(spec)],  # type: ignore[list-item]  # annotated with the old interface
        ),
    ).fit()


def work(config: dict[str, Any]) -> None:
    """One rank: ask for a job, train it, ask again."""
    spec: LaneSpec = config["spec"]
    torch.set_num_threads(spec.config.cluster.cpus_per_worker)
    world = World.current(ray.train.torch.get_device())
    coordinator = ray.get_actor(spec.coordinator, NAMESPACE)
    attempt = world.share_text(uuid.uuid4().hex)
    ranks = [Beat.first(text) for text in world.texts(birth())]
    if world.is_main:
        ray.get(coordinator.lane_started.remote(spec.index, attempt, ranks))
    world.barrier()
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
        check_data(spec.run, dataset.digest)
        trainer = Trainer(spec.config, dataset, world)
        turn = 0
        while assignment := _next_job(coordinator, spec, attempt, turn):
            _train(trainer, assignment, spec, coordinator, pulse)
            turn += 1
        trainer.close()
        # Before it ends, so that its silence is not taken for a hang.
        heart.close()
        ray.get(coordinator.rank_done.remote(spec.index, attempt, world.rank))
    except StoppedEarly:
        heart.close()
        ray.get(coordinator.rank_done.remote(spec.index, attempt, world.rank))
    except UserError as error:
        ray.get(coordinator.fail.remote(str(error)))
        raise


def _next_job(coordinator: Any, spec: LaneSpec, attempt: str, turn: int) -> Assignment | None:
    answer: Assignment | None = ray.get(coordinator.next_job.remote(spec.index, attempt, turn))
    return answer


def _train(trainer: Trainer, assignment: Assignment, spec: LaneSpec, coordinator: Any, pulse: Pulse) -> None:
    job = assignment.job
    ticket = fetch_ticket(assignment)

    def note(event: str, **details: Any) -> None:
        coordinator.note.remote(event, lane=spec.index, **details)

    train_job(trainer, job, ticket, spec.run, note, criteria=assignment.criteria, pulse=pulse)
    if trainer.world.is_main:
        ray.get(coordinator.job_done.remote(job.id))
    trainer.world.barrier()


def fetch_ticket(assignment: Assignment) -> Ticket:
    """The ticket of an assignment, from the object store; RuntimeError when its mask is not the one meant."""
    mask = Mask.from_tensors(parse_tensors(fetch(assignment.mask)))
    if mask.digest() != assignment.mask_digest:
        raise RuntimeError(
            f"job {assignment.job.id}: mask {mask.digest()} arrived, not {assignment.mask_digest}"
        )
    weights = parse_tensors(fetch(assignment.weights))
    return Ticket(mask, weights, remove_channels=_removes_channels(assignment.job))


def _removes_channels(job: Job) -> bool:
    return job.structure is not None and job.structure.method == "refill" and job.structure.bn == "mask"
