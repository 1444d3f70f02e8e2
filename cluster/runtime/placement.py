"""Placement of ranks on nodes: pure functions of the config."""

from __future__ import annotations

import math

from distlth.config.schema import ClusterSection, RunConfig


def ranks_per_node(config: ClusterSection) -> int:
    """Return the most ranks that a node of the run has, over all lanes."""
    return math.ceil(config.lanes * config.workers / config.nodes)


def resources(config: ClusterSection, device: str) -> tuple[int, int]:
    """Return the CPUs and GPUs that a node offers to Ray: exactly what its share of the ranks needs."""
    ranks = ranks_per_node(config)
    return ranks * config.cpus_per_worker, ranks if device == "cuda" else 0


def fewest_nodes(config: ClusterSection) -> int:
    """Return the fewest nodes on which a run may start or resume."""
    return config.nodes if config.min_nodes is None else config.min_nodes


def sized(config: RunConfig, nodes: int) -> RunConfig:
    """Return the config for fewer nodes: with the most ranks that they hold and that divide the batch."""
    cluster = config.cluster
    if nodes == cluster.nodes:
        return config
    ranks = ranks_per_node(cluster) * nodes
    lanes = min(cluster.lanes, ranks)
    most = min(cluster.workers, ranks // lanes)
    workers = max(size for size in range(1, most + 1) if config.train.batch_size % size == 0)
    update = {"lanes": lanes, "workers": workers, "nodes": nodes}
    return config.model_copy(update={"cluster": cluster.model_copy(update=update)})
