"""Placement of ranks on nodes: pure functions of the config."""

from __future__ import annotations

from distlth.config.schema import ClusterSection, RunConfig
from distlth.errors import ConfigError

# A rank on a GPU needs one core for the loader, and one for the thread that launches the GPU's work.
LEAST_CORES = 2


def ranks_per_node(config: ClusterSection) -> int:
    """Return the most ranks that a node of the run has, over all lanes."""
    return config.ranks_per_node


def resources(config: ClusterSection, device: str) -> tuple[int, int]:
    """Return the CPUs and GPUs that a node offers to Ray: exactly what its share of the ranks needs."""
    ranks = ranks_per_node(config)
    return ranks * config.cpus_per_worker, ranks if device == "cuda" else 0


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
