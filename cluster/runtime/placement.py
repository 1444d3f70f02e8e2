"""How a run's ranks lie on its nodes: pure functions of its config."""

from __future__ import annotations

import math

from distlth.config.schema import ClusterSection, RunConfig


def ranks_per_node(config: ClusterSection) -> int:
    """The most ranks that a node of the run has, over all lanes."""
    return math.ceil(config.lanes * config.workers / config.nodes)


def resources(config: ClusterSection, device: str) -> tuple[int, int]:
    """The CPUs and GPUs that a node of a run offers: just what its share of the ranks needs."""
    ranks = ranks_per_node(config)
    return ranks * config.cpus_per_worker, ranks if device == "cuda" else 0


def fewest_nodes(config: ClusterSection) -> int:
    """The nodes without which a run does not go on."""
    return config.nodes if config.min_nodes is None else config.min_nodes


def sized(config: RunConfig, nodes: int) -> RunConfig:
    """The job on fewer nodes than it asks for: as many ranks as they hold and as divide the batch."""
    cluster = config.cluster
    if nodes == cluster.nodes:
        return config
    ranks = ranks_per_node(cluster) * nodes
    lanes = min(cluster.lanes, ranks)
    most = min(cluster.workers, ranks // lanes)
    workers = max(size for size in range(1, most + 1) if config.train.batch_size % size == 0)
    update = {"lanes": lanes, "workers": workers, "nodes": nodes}
    return config.model_copy(update={"cluster": cluster.model_copy(update=update)})
