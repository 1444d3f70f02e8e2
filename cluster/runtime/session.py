"""A Ray session for one run: started with its own token and folder, and ended with the run.

In a Ray cluster that is there already a run is a guest: see `existing_ray`.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from cluster.runtime.folders import abandoned_folders, owned_folder, ray_folder, short_link
from cluster.runtime.placement import ranks_per_node, resources
from cluster.runtime.services import fork_workers, leave_out_unused
from distlth.config.schema import ClusterSection
from distlth.errors import ConfigError

if TYPE_CHECKING:
    from ray.job_config import JobConfig

NAMESPACE = "distlth"

# In the environment of all processes of a session: its name, by which one is told from those of others.
SESSION = "DISTLTH_SESSION"

NODE_LABEL = "distlth-node"
LOOPBACK = "127.0.0.1"

# In a session's folder.
TOKEN = "token"
END_SECONDS = 10.0
INFINIBAND = Path("/sys/class/infiniband")
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"

# There where there may be a GPU: of CUDA, of ROCm, of WSL.
GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")

# Modules in the folder that the user works in do not take the place of ours, or of Python's own.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}

# Ray Train's, which lanes are started with; it passes them on to ranks.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The coordinator bounds the start of a lane (cluster.start_seconds).
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",
}

# Ray's for a driver of a cluster that is there already, unless the user has set it.
GUEST_ENVIRONMENT = {"RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor"}

# Ray reads most of these only once, when it is imported.
RAY_ENVIRONMENT = {
    **TRAIN_ENVIRONMENT,
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "",  # one of another cluster would take precedence over the session's own
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    # Workers that Ray starts before anyone asks for one are of no use to actors with an environment.
    "RAY_prestart_worker_first_driver": "0",
    # The processes that refill and regroup import torch, which takes seconds: keep them for the next round.
    "RAY_idle_worker_killing_time_threshold_ms": "86400000",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A GCS that is gone does not come back: its nodes need not wait a minute for it.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
    # Ray's agents and workers start slowly where many nodes import from one file system at once.
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "600",
    # Ray's agents would write their title over their environment, by which we find them.
    "SPT_NOENV": "1",
}


# Despite its name, this setting matters on Linux: without it Ray replaces 127.0.0.1 by the machine's outer
# address, and its servers listen on all interfaces. With it no other node can join.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def known_device(asked: str) -> str | None:
    """Return what `cluster.device` comes to on this machine as far as that is known without torch."""
    if asked != "auto":
        return asked
    return None if any(map(os.path.exists, GPU_FILES)) else "cpu"


def resolve_device(config: ClusterSection) -> str:
    """Return `cpu` or `cuda`; `auto` is decided by what this machine has.

    Raises:
        ConfigError: more GPUs are asked for than this machine has.
    """
    if known_device(config.device) == "cpu":
        return "cpu"
    import torch

    gpus = torch.cuda.device_count()
    device = ("cuda" if gpus else "cpu") if config.device == "auto" else config.device
    needed = ranks_per_node(config)
    if device == "cuda" and needed > gpus:
        nodes = f" on {config.nodes} nodes" if config.nodes > 1 else ""
        raise ConfigError(
            f"cluster: {config.lanes} lanes x {config.workers} workers{nodes} need {needed} GPUs, "
            f"this machine has {gpus}; lower cluster.lanes or cluster.workers, or set cluster.device: cpu"
        )
    return device


def sweep() -> None:
    """Remove what killed runs of this user left on this machine: processes of Ray, and folders."""
    for folder in abandoned_folders():
        end_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)


def collectives_on(address: str) -> dict[str, str]:
    """Return the settings that make gloo use the interface of an address; the user's own win.

    NCCL finds the fast network between nodes itself, which is seldom the one that SLURM starts tasks over.
    On one machine it needs none, and must listen on no other interface.
    """
    interfaces = psutil.net_if_addrs().items()
    names = [name for name, found in interfaces if any(one.address == address for one in found)]
    wanted = ["GLOO_SOCKET_IFNAME", *(["NCCL_SOCKET_IFNAME"] if address == LOOPBACK else [])]
    return {key: os.environ.get(key, names[0]) for key in wanted} if names else {}


def network() -> dict[str, str]:
    """Return what decides the network of collectives in this process: interfaces, and their settings."""
    up = [name for name, stats in psutil.net_if_stats().items() if stats.isup]
    fast = sorted(path.name for path in INFINIBAND.glob("*"))
    settings = {key: value for key, value in os.environ.items() if key.startswith(("GLOO_", "NCCL_"))}
    return {"interfaces": " ".join(sorted(up)), "infiniband": " ".join(fast) or "none", **settings}


def _processes_of(folder: Path) -> Iterator[psutil.Process]:
    """Yield the processes that were started for a session: they inherit the path of its token."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(TOKEN_PATH, "").startswith(f"{folder}/"):
                yield process


def end_processes(folder: Path) -> None:
    """Kill -9 all processes that were started for a session, except this one, until none is left.

    The youngest first: Linux wakes stopped processes whose parents end.
    """
    deadline = time.monotonic() + END_SECONDS
    while found := [process for process in _processes_of(folder) if process.pid != os.getpid()]:
        for process in sorted(found, key=psutil.Process.create_time, reverse=True):
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=1)
        if time.monotonic() > deadline:
            return  # one waits for a disk in the kernel, and ends when the disk answers


def node_name() -> str:
    """Return the name of this machine in the batch system, or else its host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def new_token() -> str:
    """Return a token that nobody can guess."""
    return secrets.token_hex(32)


@contextmanager
def session_folder(token: str | None = None) -> Iterator[Path]:
    """Yield a folder on this machine for a session of Ray, with its `token` (default: a new one) in it.

    On leaving, all processes that were started for the session are killed.
    """
    sweep()
    with owned_folder() as folder, short_link(folder):
        (folder / TOKEN).touch(mode=0o600)
        (folder / TOKEN).write_text(token or new_token())
        try:
            yield folder
        finally:
            end_processes(folder)


def environment(folder: Path, address: str = LOOPBACK, *, alone: bool = True) -> dict[str, str]:
    """Return the environment of a process that starts Ray in a session, on this machine's `address`.

    `alone`: no other node is to join.
    """
    token = {TOKEN_PATH: str(folder / TOKEN)}
    own = {SESSION: str(folder), **(ALONE if alone else {})}
    return {**os.environ, **SAFE_PATH, **RAY_ENVIRONMENT, **own, **collectives_on(address), **token}


def guest_environment() -> dict[str, str]:
    """Return the environment of a driver of a Ray that is there already: the token is its user's."""
    return {**GUEST_ENVIRONMENT, **os.environ, **SAFE_PATH, **TRAIN_ENVIRONMENT}


def own_path() -> JobConfig:
    """Return a job config by which workers do not import from this process's folder before all else."""
    from ray.job_config import JobConfig

    class OwnPath(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return OwnPath()


def take_messages(note: Callable[[str], None]) -> None:
    """Have Ray's messages (a process was out of memory, a worker died) go to `note`, line by line.

    It prints them even with log_to_driver=False.
    """
    from ray._private import worker as ray_worker

    def take(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        for line in data["lines"]:
            note(line)

    ray_worker.print_to_stdstream = take


def start_ray(
    config: ClusterSection, device: str, folder: Path, address: str, note: Callable[[str], None]
) -> None:
    """Start Ray's head on an address of this machine, in a process that has the session's `environment`.

    Only who has the session's token can reach it. Ray's messages go to `note`.
    """
    fork_workers()
    import ray

    take_messages(note)
    leave_out_unused()
    cpus, gpus = resources(config, device)
    ray.init(
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(ray_folder(folder)),
        _node_ip_address=address,
        labels={NODE_LABEL: node_name()},
        job_config=own_path(),
    )


def join_command(config: ClusterSection, device: str, folder: Path, address: str, head: str) -> list[str]:
    """Return the command that joins this machine, by its `address`, to the Ray whose head is at `head`.

    It needs the session's `environment`, and runs until Ray ends on this machine. Ray picks free ports.
    """
    cpus, gpus = resources(config, device)
    ports = ("object-manager", "node-manager", "min-worker", "max-worker", "runtime-env-agent")
    arguments = [f"--{name}-port=0" for name in ports]
    arguments += ["--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0"]
    arguments += ["--metrics-export-port=0", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
    arguments += [f"--labels={NODE_LABEL}={node_name()}"]
    arguments += [f"--node-ip-address={address}", f"--temp-dir={ray_folder(folder)}", f"--address={head}"]
    ray = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    return [*ray, *arguments]
