"""Room for a run's ranks in a Ray cluster that others use, too: whether there can be, and waiting for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ray._private.state import available_resources_per_node, total_resources_per_node
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.runtime.placement import Need
from distlth.errors import RunError

POLL_SECONDS = 1.0

# Ray's autoscaler, the first one, reports here; the names of nodes that it does not start begin so.
AUTOSCALER_STATUS, NO_TYPE = "__autoscaling_status", "node_"


def check_room(need: Need, nodes: Collection[str]) -> None:
    """Raise RunError where the cluster, of these nodes by id, can never hold a run's ranks all at once."""
    fit = room(need, resources(), nodes)
    if fit < need.ranks and not may_grow():
        raise RunError(
            f"cluster.ray: {need} do not fit into the cluster: its {len(nodes)} nodes have room for {fit}, "
            "and no autoscaler adds any; lower cluster.lanes or cluster.workers, or what a rank asks for "
            "(cluster.cpus_per_worker, data.threads)"
        )


def resources() -> dict[str, dict[str, float]]:
    """Return what each node of the cluster has, free or not, by its id and Ray's names."""
    found: dict[str, dict[str, float]] = total_resources_per_node()  # type: ignore[no-untyped-call]
    return found


def room(need: Need, offered: Mapping[str, Mapping[str, float]], nodes: Collection[str]) -> int:
    """Return how many ranks fit into what is `offered` by nodes, by their id."""
    return sum(need.fit(offered.get(node, {})) for node in nodes)


def may_grow() -> bool:
    """Return whether an autoscaler may add nodes to the cluster."""
    if is_autoscaler_v2():
        return True
    status: dict[str, Any] = json.loads(_internal_kv_get(AUTOSCALER_STATUS) or "{}")
    types = (status.get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not name.startswith(NO_TYPE) for name in types)


def await_room(
    need: Need,
    nodes: Callable[[], Collection[str]],
    selector: Mapping[str, str] | None,
    note: Callable[[str], None],
    is_over: Callable[[], bool],
) -> None:
    """Wait, in Ray's queue, until all ranks of a run fit on nodes of a selector, or until `is_over`.

    `note` hears what is waited for, whenever there is room for another number of ranks. `nodes` returns the
    ids of those that count.
    """
    selectors = [dict(selector)] * need.ranks if selector else None
    group = placement_group([need.bundle] * need.ranks, strategy="PACK", bundle_label_selector=selectors)
    told = None
    try:
        while not group.wait(POLL_SECONDS) and not is_over():
            free = available_resources_per_node()  # type: ignore[no-untyped-call]
            if (fit := room(need, free, nodes())) != told:
                note(f"for {need}: the cluster has room for {fit} now")
                told = fit
    finally:
        remove_placement_group(group)
