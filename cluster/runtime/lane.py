"""A lane: one standing DDP worker group that trains one job after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.callback import UserCallback

from cluster.runtime.error_text import last_line
from cluster.runtime.messages import LaneSpec
from cluster.runtime.session import NAMESPACE

# The coordinator counts restarts without progress; this only bounds a start-up that never succeeds.
MAX_RESTARTS = 100

# Ranks wait in a collective while rank 0 waits for a full disk. Heartbeats find hangs long before this.
COLLECTIVE_SECONDS = 7 * 24 * 3600


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
        coordinator = ray.get_actor(self.spec.coordinator, NAMESPACE)
        coordinator.lane_failed.remote(self.spec.index, ranks)


def run_lane(spec: LaneSpec, storage: Path) -> None:
    """Run a lane until the coordinator has no more jobs. Blocks; Ray Train restarts ranks that die."""
    cluster = spec.config.cluster
    gpu = spec.device == "cuda"
    resources = {"CPU": float(cluster.cpus_per_worker), **({"GPU": 1.0} if gpu else {})}
    TorchTrainer(
        _rank,
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


def _rank(config: dict[str, Any]) -> None:
    """Run a rank. Imports late: Ray Train's controller, which sends this, needs nothing that a rank loads."""
    from cluster.runtime.rank import work

    work(config["spec"])
