"""Ray for one run: started on this machine with a token and a folder of its own, and stopped with the run."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from distlth.errors import ConfigError
from distlth.run.config import ClusterSection
from distlth.run.process import identity, is_alive

NAMESPACE = "distlth"
LOOPBACK = "127.0.0.1"

# A session's folder, and the file in it that says which process holds the session.
PREFIX, OWNER, TOKEN = "distlth-", "owner", "token"
END_SECONDS = 10.0
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"

# Ray reads most of them once, when it is imported.
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_enable_metrics_collection": "0",
    # The processes that refill and regroup import torch, which takes seconds: they wait for the next round.
    "RAY_idle_worker_killing_time_threshold_ms": "86400000",
    # By its name for other systems, but it is what makes 127.0.0.1 stay 127.0.0.1: without it Ray takes the
    # machine's outer address instead, and its servers listen on all interfaces.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's agents write their title over their environment, by which we find them.
    "SPT_NOENV": "1",
}


def resolve_device(config: ClusterSection) -> str:
    """`cpu` or `cuda`, with `auto` decided by what this machine has.

    Raises ConfigError when more GPUs are asked for than this machine has.
    """
    import torch

    gpus = torch.cuda.device_count()
    device = ("cuda" if gpus else "cpu") if config.device == "auto" else config.device
    needed = config.lanes * config.workers
    if device == "cuda" and needed > gpus:
        raise ConfigError(
            f"cluster: {config.lanes} lanes x {config.workers} workers need {needed} GPUs, "
            f"this machine has {gpus}; lower cluster.lanes or cluster.workers, or set cluster.device: cpu"
        )
    return device


def sweep() -> None:
    """End what killed runs of this user left on this machine: Ray processes that outlive it, and folders."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            owner = (folder / OWNER).read_text()
        except OSError:
            continue  # of another user, or just being made
        if not is_alive(owner):
            end_processes(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _collectives_on_loopback() -> dict[str, str]:
    """Settings with which gloo and NCCL listen on this machine's loopback interface alone."""
    addresses = psutil.net_if_addrs().items()
    is_loopback = {name: any(a.address == LOOPBACK for a in found) for name, found in addresses}
    name = next((name for name, found in is_loopback.items() if found), None)
    return {} if name is None else {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}


def _processes_of(folder: Path) -> Iterator[psutil.Process]:
    """Processes that were started for a session: they inherit the place of its token."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(TOKEN_PATH, "").startswith(f"{folder}/"):
                yield process


def end_processes(folder: Path) -> None:
    """Kill -9 what was started for a session, this process excepted, until nothing is left."""
    deadline = time.monotonic() + END_SECONDS
    while found := [process for process in _processes_of(folder) if process.pid != os.getpid()]:
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=1)
        if time.monotonic() > deadline:
            return  # in the kernel, waiting for a disk: it ends when that answers


@contextmanager
def session_folder() -> Iterator[Path]:
    """A folder for one run's Ray, with its token; on leaving, what was started for it ends and it goes."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        (folder / OWNER).write_text(identity())
        token = folder / TOKEN
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        yield folder
    finally:
        end_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process that is to start a session's Ray."""
    token = {TOKEN_PATH: str(folder / TOKEN)}
    return {**os.environ, **RAY_ENVIRONMENT, **_collectives_on_loopback(), **token}


def start_ray(config: ClusterSection, device: str, folder: Path, note: Callable[[str], None]) -> None:
    """Start Ray on loopback in a process that has the session's `environment`.

    Nobody without the token of the session can reach it. What Ray has to say (a process was out of memory,
    a worker died) goes to `note`, line by line.
    """
    import ray
    from ray._private import worker as ray_worker

    def take(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        for line in data["lines"]:
            note(line)

    # Ray prints messages of its raylets between our lines, whatever log_to_driver says.
    ray_worker.print_to_stdstream = take
    ranks = config.lanes * config.workers
    ray.init(
        address="local",
        num_cpus=max(ranks * config.cpus_per_worker, os.cpu_count() or 1),
        num_gpus=ranks if device == "cuda" else 0,
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder / "ray"),
        _node_ip_address=LOOPBACK,
    )
