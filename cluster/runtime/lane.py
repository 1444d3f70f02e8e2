"""A lane: one standing DDP worker group that trains one job after the other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayActorError, RayTaskError
from ray.train import BackendConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.exceptions import ControllerError

from cluster.runtime.error_text import last_line
from cluster.runtime.messages import LaneSpec
from cluster.runtime.ray_watch import selector_without
from cluster.runtime.session import NODE_LABEL, collectives_on
from cluster.runtime.start_watch import Started

# The coordinator counts restarts without progress; this only bounds a start-up that never succeeds.
MAX_RESTARTS = 100


# How a rank reports that another one is gone, or does not come.
ABOUT_PEERS = ("closed by peer", "reset by peer", "roken pipe", "imed out", "NCCL", "gloo")


class _ReportDeaths(UserCallback):
    """Tells the coordinator why ranks died. Ray Train calls it in its controller process."""

    def __init__(self, spec: LaneSpec) -> None:
        self.spec = spec

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Report each rank's error, in one line."""
        ranks = ", ".join(
            f"rank {rank}: {last_line(str(error)) or repr(error)}"
            for rank, error in sorted(worker_exceptions.items())
        )
        _coordinator(self.spec).lane_failed.remote(self.spec.index, ranks, culprits(worker_exceptions))


def culprits(errors: Mapping[int, Exception]) -> list[int]:
    """Return the ranks that ended a lane: those that died, or else those that do not blame another rank."""
    died = [rank for rank, e in errors.items() if isinstance(e, RayActorError | WorkerHealthCheckFailedError)]
    own = [rank for rank, e in errors.items() if not any(word in str(e) for word in ABOUT_PEERS)]
    return sorted(died or own or errors)


@dataclass
class _LaneConfig(TorchConfig):
    """The process group of a lane."""

    spec: LaneSpec | None = None

    @property
    def backend_cls(self) -> type[_LaneBackend]:
        """What Ray Train calls in its controller process, between the start of the ranks and their work."""
        return _LaneBackend


class _LaneBackend(_TorchBackend):
    """Tells the coordinator which ranks have started, and when they cannot form a process group."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Have the ranks form a process group; a failure counts as a death of the ranks."""
        assert isinstance(backend_config, _LaneConfig)
        spec = backend_config.spec
        assert spec is not None
        coordinator = _coordinator(spec)
        ranks = [
            Started(each.metadata.node_id, each.metadata.pid, each.actor._actor_id.hex())
            for each in worker_group.get_workers()
        ]
        coordinator.lane_starting.remote(spec.index, ranks)
        try:
            if spec.config.cluster.ray is not None:
                worker_group.execute(_use_rays_interface)
            super().on_start(worker_group, backend_config)
        except (RayActorError, RayTaskError) as error:
            why = f"the ranks did not meet: {last_line(str(error)) or repr(error)}"
            coordinator.lane_failed.remote(spec.index, why, _ranks_of(error, worker_group.get_workers()))
            raise WorkerGroupStartupFailedError(why) from error  # the one that Ray Train retries


class _FixedSize(FixedScalingPolicy):
    """Tells no coordinator of autoscaling what a lane needs: its placement group does."""

    def _maybe_send_resource_request(self) -> None:
        pass

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    async def before_controller_shutdown(self) -> None:
        pass

    def before_controller_abort(self) -> None:
        pass


# Helpers of Ray Train. The first starts an actor that would outlive the run: what a lane has reserved is free
# again when its controller has ended. The second, for Ray's data sets, starts an actor too, and asks ranks
# once more when they have met: the lane of one that died in that moment would keep what it has reserved, and
# stand still until `cluster.start_seconds`.
LEFT_OUT = (PlacementGroupCleanerCallback, DatasetsCallback)


class _LaneTrainer(TorchTrainer):
    """A trainer without the helpers that a lane leaves out."""

    def _create_default_callbacks(self) -> list[Any]:
        found: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # mypy sees the old class
        return [one for one in found if not isinstance(one, LEFT_OUT)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["scaling_policy"] = _FixedSize(self.scaling_config)  # type: ignore[arg-type]
        return super()._initialize_and_run_controller(**arguments)  # type: ignore[misc]


def _use_rays_interface() -> None:
    """Have gloo use the interface by which Ray knows this node; a host's name may lead to another one."""
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    os.environ.update(collectives_on(address))


def others_than(spec: LaneSpec) -> dict[str, str] | None:
    """Return Ray's selector of all nodes but those that a lane leaves out; None if it leaves out none."""
    if not spec.without:
        return None
    if spec.config.cluster.ray is not None:
        return selector_without(spec.without)
    return {NODE_LABEL: f"!in({','.join(spec.without)})"}


def _ranks_of(error: Exception, workers: Sequence[Any]) -> list[int]:
    """Return the rank that an error of Ray came from, where Ray tells."""
    actor = getattr(error, "actor_id", None)
    process = getattr(error, "ip", None), getattr(error, "pid", None)
    return [
        rank
        for rank, worker in enumerate(workers)
        if actor == worker.actor._actor_id.hex() or process == (worker.metadata.node_ip, worker.metadata.pid)
    ]


def _coordinator(spec: LaneSpec) -> Any:
    return ray.get_actor(spec.coordinator)


def run_lane(spec: LaneSpec, storage: Path) -> None:
    """Run a lane until the coordinator has no more jobs. Blocks; ranks that die are restarted.

    Ray Train does that, but for a few moments of their start, in which it ends the lane.
    """
    for number in itertools.count():
        try:
            return _run_lane(spec, storage, number)
        except ControllerError as error:
            why = last_line(str(error)) or repr(error)
            actor = getattr(error.controller_failure, "actor_id", None)
            ray.get(
                _coordinator(spec).lane_ended.remote(spec.index, f"its ranks did not start: {why}", actor)
            )


def _run_lane(spec: LaneSpec, storage: Path, number: int) -> None:
    cluster = spec.config.cluster
    gpu = spec.device == "cuda"
    resources = {"CPU": float(spec.cpus), **({"GPU": 1.0} if gpu else {})}
    _LaneTrainer(
        _rank,
        train_loop_config={"spec": spec},
        torch_config=_LaneConfig(
            backend="nccl" if gpu else "gloo",
            timeout_s=cluster.collective_seconds,  # type: ignore[arg-type]  # seconds of a timedelta
            spec=spec,
        ),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=gpu,
            resources_per_worker=resources,
            label_selector=others_than(spec),  # type: ignore[call-arg]  # mypy sees the old class
        ),
        run_config=RunConfig(
            name=f"lane-{spec.index}-{number}",  # with an old name it would restore that one
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            callbacks=[_ReportDeaths(spec)],  # type: ignore[list-item]  # annotated with the old interface
        ),
    ).fit()


def _rank(config: dict[str, Any]) -> None:
    """Run a rank. Imports late: Ray Train's controller, which sends this, needs nothing that a rank loads."""
    from cluster.runtime.rank import work

    work(config["spec"])
