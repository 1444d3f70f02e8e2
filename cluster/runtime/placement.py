"""Placement of ranks on nodes: pure functions of the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distlth.config.schema import ClusterSection, RunConfig
from distlth.cores import BESIDE_THREADS, loader_threads
from distlth.errors import ConfigError

# A rank on a GPU needs one core for the loader, and one for the thread that launches the GPU's work.
LEAST_CORES = 2

# Loader threads of a rank on a GPU where its cores are asked for, and the job file does not say.
USUAL_THREADS = 4


def ranks_per_node(config: ClusterSection) -> int:
    """Return the most ranks that a node of the run has, over all lanes."""
    return config.ranks_per_node


def resources(config: ClusterSection, device: str) -> tuple[int, int]:
    """Return the CPUs and GPUs that a node offers to Ray: exactly what its share of the ranks needs."""
    ranks = ranks_per_node(config)
    return ranks * config.cpus_per_worker, ranks if device == "cuda" else 0


def cores_to_ask(config: RunConfig, device: str) -> int:
    """Return the cores to ask for each rank: on a GPU enough for its loader, which feeds it."""
    cores = config.cluster.cpus_per_worker
    if device != "cuda":
        return cores
    return max(cores, (config.data.threads or USUAL_THREADS) + BESIDE_THREADS)


@dataclass(frozen=True)
class Need:
    """What the ranks of a run ask of a Ray cluster: each so many CPUs and GPUs, on one node."""

    ranks: int
    cpus: int
    gpus: int

    @classmethod
    def of(cls, config: RunConfig, device: str) -> Need:
        """Return what a run needs on a device, `cpu` or `cuda`."""
        ranks = config.cluster.lanes * config.cluster.workers
        return cls(ranks, cores_to_ask(config, device), 1 if device == "cuda" else 0)

    @property
    def bundle(self) -> dict[str, float]:
        """What a rank asks for, by Ray's names."""
        return {"CPU": float(self.cpus), **({"GPU": float(self.gpus)} if self.gpus else {})}

    def fit(self, resources: Mapping[str, float]) -> int:
        """Return how many ranks fit on a node that has these resources, by Ray's names."""
        return int(min(resources.get(name, 0.0) // each for name, each in self.bundle.items()))

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPU and " if self.gpus else ""
        cpus = "1 CPU" if self.cpus == 1 else f"{self.cpus} CPUs"
        return f"{self.ranks} ranks of {gpus}{cpus} each"


def guest_config(config: RunConfig, device: str) -> RunConfig:
    """Return the config for ranks on nodes that the run does not start.

    They work in another folder, and share a node with others: their threads follow from what they ask for.
    """
    usual = USUAL_THREADS if device == "cuda" else loader_threads(config.cluster.cpus_per_worker, device)
    update = {"path": config.data.path.absolute(), "threads": config.data.threads or usual}
    return config.model_copy(update={"data": config.data.model_copy(update=update)})


def check_cores(config: RunConfig, cores: int, of_whom: str) -> None:
    """Raise ConfigError where the `cores` of a node do not feed the GPUs of its ranks.

    `of_whom` says in words whose cores they are.
    """
    ranks, threads = ranks_per_node(config.cluster), config.data.threads
    needed = ranks * (threads or LEAST_CORES)
    if cores >= needed:
        return
    if threads is None:
        raise ConfigError(
            f"cluster.workers: {ranks} ranks on the GPUs of a node need {LEAST_CORES} cores each, {of_whom} "
            f"{cores}; ask for {needed} or more, or use fewer ranks"
        )
    raise ConfigError(
        f"data.threads: {ranks} ranks x {threads} loader threads on a node need {needed} cores, {of_whom} "
        f"{cores}; ask for more cores, or leave data.threads out: it then follows from the cores"
    )


def fewest_nodes(config: ClusterSection) -> int:
    """Return the fewest nodes on which a run may start or resume."""
    return config.nodes if config.min_nodes is None else config.min_nodes


def smallest(config: RunConfig) -> RunConfig:
    """Return the config for the fewest nodes that the run may be left with."""
    return sized(config, min(fewest_nodes(config.cluster), config.cluster.nodes))


def sized(config: RunConfig, nodes: int) -> RunConfig:
    """Return the config for fewer nodes: with all the ranks that they hold, for the same global batches."""
    cluster = config.cluster
    if nodes == cluster.nodes:
        return config
    ranks = ranks_per_node(cluster) * nodes
    lanes = min(cluster.lanes, ranks)
    update = {"lanes": lanes, "workers": min(cluster.workers, ranks // lanes), "nodes": nodes}
    return config.model_copy(update={"cluster": cluster.model_copy(update=update)})
